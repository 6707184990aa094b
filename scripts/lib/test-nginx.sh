# Test::Nginx, the library that t/*/*.t use. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

note_test_needs() {
    need "Perl's Test::Base" libtest-base-perl perl -MTest::Base -e 1
    need "Perl's Test::LongString" libtest-longstring-perl perl -MTest::LongString -e 1
    need "Perl's Text::Diff" libtext-diff-perl perl -MText::Diff -e 1
    need "Perl's IPC::Run" libipc-run-perl perl -MIPC::Run -e 1
    need "Perl's List::MoreUtils" liblist-moreutils-perl perl -MList::MoreUtils -e 1
    need "Perl's LWP and HTTP::Response" "libwww-perl libhttp-message-perl" perl -MLWP::UserAgent -MHTTP::Response -e 1
    need "Perl's URI" liburi-perl perl -MURI -e 1
    need "prove, which comes with perl" perl have prove
    need "openssl, for the certificates of the tests" openssl have openssl
    need "curl" curl have curl
    need "ps" procps have ps
    need "ip, for tests between network namespaces" iproute2 have ip
    need "flock" util-linux have flock
}

# Sets PERL5LIB so that Test::Nginx is found. Debian has it in sid only, so this one package is fetched with a separate apt
# configuration and unpacked into the cache. The sources and packages of the machine do not change.
provide_test_nginx() {
    perl -MTest::Nginx::Socket -e 1 2>/dev/null && return
    local folder=$CACHE/perl
    export PERL5LIB=$folder/usr/share/perl5${PERL5LIB:+:$PERL5LIB}
    [[ -f $folder/usr/share/perl5/Test/Nginx/Socket.pm ]] && return
    step "fetching Test::Nginx (libtest-nginx-perl)"
    local archive
    archive=$(debian_archive) ||
        die "Test::Nginx is missing: install it from CPAN (cpan Test::Nginx), as this machine has no archive of Debian"
    quietly "$CACHE/log/test-nginx" fetch_from_sid "$archive" libtest-nginx-perl "$folder" ||
        die "libtest-nginx-perl cannot be fetched from Debian's sid: see the lines above, or install Test::Nginx from CPAN"
}

# fetch_from_sid ARCHIVE PACKAGE FOLDER
fetch_from_sid() {
    local apt=$CACHE/apt-sid download=$CACHE/apt-sid/download
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/sources" "$download"
    echo "deb $1 sid main" >"$apt/sources/sid.list"
    local options=(
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/sources"
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache"
        # apt's own user may have no access to the folder; and only package names are needed.
        -o APT::Sandbox::User=root -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Languages=none
    )
    apt-get "${options[@]}" update
    rm -f "$download"/*.deb
    (cd "$download" && apt-get "${options[@]}" download "$2")
    rm -rf "$3.new"
    dpkg-deb -x "$download"/*.deb "$3.new"
    rm -rf "$3" "$apt"
    mv "$3.new" "$3"
}
