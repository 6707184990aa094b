# The Debian package: debian/ beside this file, filled in, and debhelper with nginx-dev's dh_nginx. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

PACKAGE=libnginx-mod-http-upstream-keepalive-rs

# nginx.org's package has the same name, but Debian's alone provides the name of an ABI.
is_packaged_for_debian() {
    local package
    read -r package _ <<<"$(nginx_package "$NGINX")" || true
    [[ -n $package && $(dpkg-query -W -f '${Provides}' "$package") == *nginx-abi-* ]]
}

note_deb_needs() {
    # Only the headers of the package will do.
    unset NGINX_SOURCE_DIR NGINX_BUILD_DIR
    note_compiler_needs
    if find_nginx >/dev/null; then
        note_headers_need "$(find_nginx)"
    else
        note_debian_nginx_need
    fi
    need "debhelper" debhelper have dh
    need "dpkg-buildpackage" dpkg-dev have dpkg-buildpackage
    need "make" make have make
    need "Perl's JSON::PP and Text::Wrap" perl perl -MJSON::PP -MText::Wrap -e 1
}

make_deb() {
    local version tree=$TEMP/$PACKAGE deb
    version=$(deb_version)
    step "making $PACKAGE $version"
    write_deb_tree "$tree" "$version"
    # The module has no debug information to put into a package of its own. -d: note_deb_needs has asked for all that is used here,
    # which is less than the build-essential that dpkg-buildpackage wants to see.
    (cd "$tree" && DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:+$DEB_BUILD_OPTIONS }noautodbgsym" \
        quietly "$ROOT/target/package.log" dpkg-buildpackage -d -b -us -uc) || die "the package does not build"
    deb=$(echo "$TEMP/${PACKAGE}_$version"_*.deb)
    mv "$deb" "$OUTPUT/"
    deb=$OUTPUT/${deb##*/}
    # The other files of a build, which it judges as well, are for an archive.
    if have lintian && ! quietly "$ROOT/target/lintian.log" lint "$deb"; then
        warn "lintian has objections: see the lines above"
    fi
    step "made $deb. To install it, as root:"
    say
    say "    apt install $deb"
    say
}

lint() { lintian --allow-root --display-info --pedantic --fail-on error,warning "$@"; }

# A package for a later release of the distribution is a newer one.
deb_version() (
    . /etc/os-release
    echo "$MODULE_VERSION-$REVISION~$ID${VERSION_ID:-}"
)

# What dpkg-buildpackage wants to see: debian/, the module, and what comes along.
write_deb_tree() {
    local tree=$1 version=$2 maintainer
    maintainer="${DEBFULLNAME:-$(id -un)} <${DEBEMAIL:-$(id -un)@$(hostname -f 2>/dev/null || hostname)}>"
    mkdir -p "$tree"
    cp -r "$LIB/package/debian" "$tree/debian"
    fill_in "$LIB/package/debian/control" MAINTAINER "$maintainer" >"$tree/debian/control"
    write_deb_changelog "$version" "$maintainer" >"$tree/debian/changelog"
    write_copyright >"$tree/debian/copyright" || die "see cargo's message above"
    cp -r "$ROOT"/README.md "$ROOT"/CHANGELOG.md "$ROOT"/docs "$tree/"
    install -m 644 "$(built_module "$NGINX_VERSION")" "$tree/$MODULE.so"
    copy_examples "$tree/examples"
}

# From what cargo says about the crates that it has compiled: asked about all crates, it would download those for other systems.
write_copyright() {
    cargo_for "$NGINX_VERSION" build --release --locked --message-format=json 2>"$TEMP/crates.log" >"$TEMP/crates.json" ||
        { cat "$TEMP/crates.log" >&2 && return 1; }
    (cd "$ROOT" && perl "$LIB/package/copyright.pl" <"$TEMP/crates.json")
}

# One entry, for the version that is packed.
write_deb_changelog() {
    local version=$1 maintainer=$2 codename
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    printf '%s (%s) %s; urgency=medium\n\n' "$PACKAGE" "$version" "${codename:-unstable}"
    perl -MText::Wrap -0777 -ne '
        my ($section) = /^## \Q'"$MODULE_VERSION"'\E\b[^\n]*\n(.*?)(?=^## |\z)/ms or die "no such version\n";
        $Text::Wrap::columns = 79;
        print wrap("  * ", "    ", s/\s+/ /gr), "\n" for $section =~ /^- (.*?)\s*(?=^- |^### |\z)/msg;
    ' "$ROOT/CHANGELOG.md" || die "CHANGELOG.md says nothing about version $MODULE_VERSION"
    printf '\n -- %s  %s\n' "$maintainer" "$(date -R -d "@$(source_date)")"
}

# So that the same sources make the same package.
source_date() { git -C "$ROOT" log -1 --format=%ct 2>/dev/null || stat -c %Y "$ROOT/CHANGELOG.md"; }
