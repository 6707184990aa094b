# The RPM, for the nginx of RHEL and its relatives, and for nginx.org's packages for them: nginx-mod.spec beside this file, filled
# in. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

note_rpm_needs() {
    note_compiler_needs
    note_headers_need "$NGINX"
    need "rpmbuild" rpm have rpmbuild
    need "Perl's JSON::PP" perl perl -MJSON::PP -e 1
}

make_rpm() {
    local tree=$TEMP/tree top=$TEMP/rpm rpm
    mkdir -p "$tree" "$top"
    install -m 644 "$(built_module "$NGINX_VERSION")" "$tree/$MODULE.so"
    cp -r "$ROOT"/README.md "$ROOT"/CHANGELOG.md "$ROOT"/LICENSE "$ROOT"/docs "$tree/"
    write_copyright >"$tree/COPYRIGHT" || die "see cargo's message above"
    copy_examples "$tree/examples"
    fill_in "$LIB/package/nginx-mod.spec" VERSION "$MODULE_VERSION" REVISION "$REVISION" NGINX_VERSION "$NGINX_VERSION" \
        REQUIRES "$(rpm_requires)" TREE "$tree" MODULE "$MODULE" MODULES "$(nginx_modules_path "$NGINX")" >"$TEMP/nginx-mod.spec"
    SOURCE_DATE_EPOCH=$(source_date) quietly "$ROOT/target/package.log" \
        rpmbuild -bb --define "_topdir $top" --define 'use_source_date_epoch_as_buildtime 1' "$TEMP/nginx-mod.spec" ||
        die "the package does not build"
    rpm=$(find "$top/RPMS" -name '*.rpm')
    mv "$rpm" "$OUTPUT/"
    step "made $OUTPUT/${rpm##*/}. To install it, as root:"
    say
    say "    dnf install $OUTPUT/${rpm##*/}"
    say
    [[ -n $(rpm --eval '%{?nginx_modconfdir}') ]] ||
        say "then add one line at the top of nginx.conf: load_module $(nginx_modules_path "$NGINX")/$MODULE.so;"
}

# The line about nginx: what nginx-mod-devel says, or exactly the version of the package here.
rpm_requires() {
    local package
    package=$(rpm --eval '%{?nginx_modrequires}')
    [[ -n $package ]] || package=$(rpm -qf --qf 'Requires: %{NAME} = %{EPOCHNUM}:%{VERSION}\n' "$NGINX" 2>/dev/null) || package=''
    say "$package"
}
