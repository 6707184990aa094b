# The check of Dockerfile and of the tarball, without a registry: the instructions run in chroots, on an nginx that lies as
# in the official image, and the toolchain of this machine stands for the image of Rust. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154,SC2016,SC2317

check_image() {
    local why
    why=$(package_check_obstacle)
    if [[ -z $why ]] && ! load_version crate; then
        why="no source of nginx: $REASON"
    elif [[ -z $why && ! -d ${RUSTUP_HOME:-$HOME/.rustup}/toolchains ]]; then
        why="cargo is not rustup's"
    fi
    check_unless "$why" "the container image and the tarball" image_serves
}

image_serves() {
    local image=$CACHE/chroot-image made=$TEMP/stage-made
    provide_image "$image" && write_download_site "$TEMP/download" && run_dockerfile "$image" &&
        bring_scripts "$made" && live_in "$made" image-life.sh || return 1
    # The tarball, on an image without the module.
    rm -rf "$made" && cp -a "$image" "$made" && bring_scripts "$made" &&
        tar -C "$made/check" --strip-components=1 -xzf "$TEMP"/tarball/*.tar.gz && live_in "$made" tarball-life.sh
}

# provide_image FOLDER: the nginx of the nginx-src crate, configured and laid out as nginx.org's packages are.
provide_image() {
    local folder=$1 tree=$CACHE/nginx-org arguments
    read_org_arguments
    configure_tree "$(crate_source)" "$tree" "${arguments[@]}" &&
        make -C "$tree" -f "$tree/objs/Makefile" -j "$(nproc)" binary || return 1
    if ! cmp -s "$tree/objs/nginx" "$folder/usr/sbin/nginx"; then
        rm -rf "$folder"
        provide_chroot "$folder.base" openssl libpcre2-8-0 zlib1g procps iproute2 curl ca-certificates &&
            cp -a "$folder.base" "$folder.new" || return 1
        lay_out "$tree" "$folder.new" && mv "$folder.new" "$folder"
    fi
}

read_org_arguments() {
    arguments=(
        --prefix=/etc/nginx --sbin-path=/usr/sbin/nginx --modules-path=/usr/lib/nginx/modules
        --conf-path=/etc/nginx/nginx.conf --error-log-path=/var/log/nginx/error.log
        --http-log-path=/var/log/nginx/access.log --pid-path=/run/nginx.pid --lock-path=/run/nginx.lock
        --http-client-body-temp-path=/var/cache/nginx/client_temp --http-proxy-temp-path=/var/cache/nginx/proxy_temp
        --http-fastcgi-temp-path=/var/cache/nginx/fastcgi_temp --http-uwsgi-temp-path=/var/cache/nginx/uwsgi_temp
        --http-scgi-temp-path=/var/cache/nginx/scgi_temp --user=nginx --group=nginx --with-compat --with-file-aio
        --with-threads --with-http_addition_module --with-http_auth_request_module --with-http_dav_module
        --with-http_flv_module --with-http_gunzip_module --with-http_gzip_static_module --with-http_mp4_module
        --with-http_random_index_module --with-http_realip_module --with-http_secure_link_module
        --with-http_slice_module --with-http_ssl_module --with-http_stub_status_module --with-http_sub_module
        --with-http_v2_module --with-http_v3_module --with-mail --with-mail_ssl_module --with-stream
        --with-stream_realip_module --with-stream_ssl_module --with-stream_ssl_preread_module
        --with-cc-opt='-g -O2 -fstack-protector-strong -Wformat -Werror=format-security -Wp,-D_FORTIFY_SOURCE=2 -fPIC'
        --with-ld-opt='-Wl,-z,relro -Wl,-z,now -Wl,--as-needed -pie'
    )
}

# lay_out TREE CHROOT
lay_out() {
    install -D "$1/objs/nginx" "$2/usr/sbin/nginx" &&
        mkdir -p "$2"/etc/nginx/conf.d "$2/usr/lib/nginx/modules" "$2/var/log/nginx" "$2/var/cache/nginx" &&
        cp "$1/conf/mime.types" "$2/etc/nginx/" &&
        ln -s /usr/lib/nginx/modules "$2/etc/nginx/modules" &&
        chroot "$2" useradd --system --user-group --no-create-home --shell /bin/false nginx &&
        printf '%s\n' '' 'user nginx;' 'worker_processes auto;' 'error_log /var/log/nginx/error.log notice;' \
            'pid /run/nginx.pid;' 'events { worker_connections 1024; }' 'http {' 'include /etc/nginx/mime.types;' \
            'include /etc/nginx/conf.d/*.conf;' '}' >"$2/etc/nginx/nginx.conf"
}

# write_download_site FOLDER: what nginx.org would have of this version, and SIGNER, the key that it is signed with.
write_download_site() {
    local site=$1 name=nginx-$VERSION
    mkdir -p "$site/download" "$site/keys" "$TEMP/$name" "$TEMP/signer" && chmod 700 "$TEMP/signer" &&
        cp -a "$(crate_source)/." "$TEMP/$name" && cp -a "$TEMP/$name/auto/configure" "$TEMP/$name/" &&
        tar -C "$TEMP" -czf "$site/download/$name.tar.gz" "$name" || return 1
    (
        export GNUPGHOME=$TEMP/signer
        gpg --batch --quiet --passphrase '' --quick-generate-key nobody@example.org ed25519 sign &&
            gpg --batch --quiet --armor --export >"$site/keys/arut.key" &&
            gpg --batch --quiet --armor --detach-sign "$site/download/$name.tar.gz"
        gpgconf --kill gpg-agent
    )
    SIGNER=$(GNUPGHOME=$TEMP/signer gpg --batch --with-colons --list-keys | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1/p')
    [[ -n $SIGNER && -s $site/download/$name.tar.gz.asc ]]
}

# run_dockerfile IMAGE: the instructions of Dockerfile, as far as it uses them. The stages are $TEMP/stage-build and
# stage-made; the first one makes the tarball as well, in $TEMP/tarball.
run_dockerfile() {
    local image=$1 stage='' folder=/ path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin word rest
    local environment=("PATH=$path")
    while read -r word rest; do
        say "$word $rest"
        "instruction_$word" "$rest" || return 1
    done < <(sed -e ':a' -e '/\\$/{N;s/\\\n *//;ba}' -e '/^\(#\|$\)/d' "$ROOT/Dockerfile")
}

instruction_ARG() { :; }

# FROM IMAGE [AS STAGE]
instruction_FROM() {
    if [[ $stage == build ]]; then
        step "a source that somebody else has signed is refused"
        ! instruction_RUN 'NGINX_SIGNERS=another scripts/fetch-nginx "" /other' || return 1
        step "the tarball"
        instruction_RUN 'NGINX_SOURCE_DIR=$(echo /source/nginx-*) scripts/package --tarball --output /tarball' || return 1
        mkdir -p "$TEMP/tarball" && cp "$TEMP"/stage-build/tarball/*.tar.gz "$TEMP/tarball/" || return 1
    fi
    stage=made folder=/ environment=("PATH=$path")
    [[ $1 != *' AS '* ]] || stage=${1##* }
    # The one of Rust is this machine's.
    [[ $stage == rust ]] || cp -a "$image" "$TEMP/stage-$stage"
}

instruction_ENV() {
    local words
    read -ra words <<<"${1//'$PATH'/"$path"}"
    environment+=("${words[@]}")
}

instruction_WORKDIR() { folder=$1 && mkdir -p "$TEMP/stage-$stage$folder"; }

instruction_COPY() {
    local to=$TEMP/stage-$stage
    case $1 in
        --from=rust' '*) ;;
        --from=build' '*) cp "$TEMP/stage-build$(cut -d' ' -f2 <<<"$1")" "$to$(cut -d' ' -f3 <<<"$1")" ;;
        # All but what .dockerignore names.
        '. .') tar -C "$ROOT" --exclude-vcs --exclude=./target -c . | tar -C "$to$folder" -x ;;
        *) return 1 ;;
    esac
}

# Packages take the longest, so what they leave is kept.
instruction_RUN() {
    local root=$TEMP/stage-$stage kept=$CACHE/chroot-image-build
    if [[ $1 != apt-get* ]]; then
        run_in_stage "$root" "$1"
    elif [[ $(cat "$kept/stamp" 2>/dev/null) == "$1" && $kept -nt $image ]]; then
        rm -rf "$root" && cp -a "$kept" "$root"
    else
        rm -rf "$kept" && run_in_stage "$root" "$1" && cp -a "$root" "$kept" && say "$1" >"$kept/stamp"
    fi
}

# run_in_stage CHROOT COMMAND: with the network of this machine, which builds need, and processes of its own.
run_in_stage() {
    local root=$1
    local mounts="mount -t proc proc '$root/proc'"
    if [[ $stage == build ]]; then
        mkdir -p "$root"/usr/local/{cargo,rustup} "$root/module/target" "$root/download" "$CACHE/image-target"
        mounts+=" && mount --bind '${CARGO_HOME:-$HOME/.cargo}' '$root/usr/local/cargo'"
        mounts+=" && mount --bind '${RUSTUP_HOME:-$HOME/.rustup}' '$root/usr/local/rustup'"
        mounts+=" && mount --bind '$CACHE/image-target' '$root/module/target'"
        mounts+=" && mount --bind '$TEMP/download' '$root/download'"
    fi
    unshare --fork --kill-child --pid --mount bash -c "$mounts"' && exec chroot "$@"' - "$root" \
        env -i HOME=/root "${environment[@]}" NGINX_SITE=file:///download NGINX_SIGNERS="$SIGNER" DEBIAN_FRONTEND=noninteractive \
        sh -c "cd '$folder' && $2"
}
