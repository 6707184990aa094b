# Appended to nginx's makefile: how the static library of `config` is made. Optimised whatever nginx
# itself is built with: --with-debug asks for debug lines, not for slow code.

ngx_keepalive_rs_deps=`find $ngx_addon_dir/src -name '*.rs' | tr '\n' ' '`

cat << END                                                    >> $NGX_MAKEFILE

$ngx_keepalive_rs_lib: $NGX_OBJS/ngx_auto_config.h $ngx_addon_dir/Cargo.toml $ngx_addon_dir/build.rs $ngx_keepalive_rs_deps
	NGINX_SOURCE_DIR="\$(CURDIR)" NGINX_BUILD_DIR="\$(abspath $NGX_OBJS)" \\
	CARGO_TARGET_DIR="\$(abspath $NGX_OBJS)/ngx_http_upstream_keepalive_rs_module" \\
	cargo rustc --release --locked --manifest-path "$ngx_addon_dir/Cargo.toml" \\
		--package ngx_http_upstream_keepalive_rs_module --lib --crate-type staticlib \\
		--no-default-features --features nginx
END
