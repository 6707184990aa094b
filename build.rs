//! Checks the nginx tree that nginx-sys found, and adds what nginx-sys lacks: a few constants.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("DEP_NGINX_FEATURES_CHECK").unwrap_or_else(|_| "any()".into());
    println!("cargo::rustc-check-cfg=cfg(ngx_feature, values({features}))");
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    println!("cargo::rustc-check-cfg=cfg(loom)");
    println!("cargo::rustc-check-cfg=cfg(nginx_pool_by_default)");
    println!("cargo::rustc-check-cfg=cfg(nginx_resolve)");
    println!("cargo::rustc-check-cfg=cfg(nginx_header_chains)");
    #[cfg(feature = "nginx")]
    nginx::check_tree();
}

#[cfg(feature = "nginx")]
mod nginx {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{exit, Command};

    /// The oldest nginx whose structures and hooks this module was written for and tested with.
    const OLDEST: u64 = 1_022_000;

    /// The first nginx in which every explicit upstream has a pool (`keepalive 32 local`) by default.
    const POOL_BY_DEFAULT: u64 = 1_029_007;

    /// The first nginx in which servers of an upstream can come and go (`server NAME resolve`).
    const RESOLVE: u64 = 1_027_003;

    /// The first nginx that links headers of one name to each other.
    const HEADER_CHAINS: u64 = 1_023_000;

    pub fn check_tree() {
        let version: u64 = dep("VERSION_NUMBER").parse().unwrap_or(0);
        let features = dep("FEATURES");
        let has = |feature: &str| features.split(',').any(|f| f.trim() == feature);

        if version < OLDEST {
            refuse("the nginx tree is older than 1.22, the oldest nginx that this module supports");
        }
        if !has("http") {
            refuse("the nginx tree is configured without HTTP (--without-http), so it has no upstreams");
        }
        if has("compat") && !has("http_ssl") {
            refuse(
                "the nginx tree is configured --with-compat but without --with-http_ssl_module: the \
             module would load into an nginx with TLS and spin on https upstreams; configure the \
             tree with the arguments that `nginx -V` shows",
            );
        }

        for feature in features.split(',').map(str::trim).filter(|f| !f.is_empty()) {
            println!("cargo::rustc-cfg=ngx_feature=\"{feature}\"");
        }
        if version >= POOL_BY_DEFAULT {
            println!("cargo::rustc-cfg=nginx_pool_by_default");
        }
        if version >= RESOLVE && has("http_upstream_zone") {
            println!("cargo::rustc-cfg=nginx_resolve");
        }
        if version >= HEADER_CHAINS {
            println!("cargo::rustc-cfg=nginx_header_chains");
        }
        println!("cargo::rustc-env=NGINX_BUILT_AGAINST={}", dep("VERSION"));
        write_constants();
        write_bits();
    }

    /// What nginx-sys tells its direct dependents.
    fn dep(name: &str) -> String {
        let variable = format!("DEP_NGINX_{name}");
        println!("cargo::rerun-if-env-changed={variable}");
        env::var(&variable).unwrap_or_default()
    }

    fn refuse(why: &str) -> ! {
        println!("cargo::error={why}");
        exit(1);
    }

    /// nginx writes these constants as casts, which nginx-sys' run of bindgen does not evaluate. Types
    /// come from nginx-sys alone: a second copy of a structure would be a second truth.
    fn write_constants() {
        const HEADER: &str = "
        #include <ngx_config.h>
        #include <ngx_core.h>
        #include <ngx_event.h>
        enum Unset {
            CONF_UNSET_UINT = NGX_CONF_UNSET_UINT,
            CONF_UNSET_MSEC = NGX_CONF_UNSET_MSEC,
            READ_EVENT = NGX_READ_EVENT,
        };
    ";
        let include = dep("INCLUDE");
        let cflags = dep("CFLAGS");
        let constants = bindgen::Builder::default()
            .header_contents("constants.h", HEADER)
            .clang_args(env::split_paths(&include).map(|path| format!("-I{}", path.display())))
            .clang_args(cflags.split_whitespace())
            .allowlist_type("Unset")
            .prepend_enum_name(false)
            .layout_tests(false)
            .use_core()
            .generate()
            .unwrap_or_else(|err| refuse(&format!("bindgen cannot read the nginx headers: {err}")));
        let out = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("constants.rs");
        if let Err(err) = constants.write_to_file(&out) {
            refuse(&format!("cannot write {}: {err}", out.display()));
        }
    }

    /// Bits of nginx's requests. bindgen places bit-fields wrongly if other fields before them leave them at an address that
    /// is no multiple of four, as since nginx 1.29: so the C compiler is asked, in the way of `./configure`, by a program
    /// that sets a bit and looks where it is.
    const BITS: [(&str, &str, u8); 22] = [
        ("background", "BACKGROUND", 1),
        ("cached", "CACHED", 1),
        ("discard_body", "DISCARD_BODY", 1),
        ("done", "DONE", 1),
        ("error_page", "ERROR_PAGE", 1),
        ("header_only", "HEADER_ONLY", 1),
        ("header_sent", "HEADER_SENT", 1),
        ("internal", "INTERNAL", 1),
        ("preserve_body", "PRESERVE_BODY", 1),
        ("request_body_no_buffering", "REQUEST_BODY_NO_BUFFERING", 1),
        ("subrequests", "SUBREQUESTS_1", 1),
        ("subrequests", "SUBREQUESTS_2", 2),
        ("subrequests", "SUBREQUESTS_4", 4),
        ("subrequests", "SUBREQUESTS_8", 8),
        ("subrequests", "SUBREQUESTS_16", 16),
        ("subrequests", "SUBREQUESTS_32", 32),
        ("subrequests", "SUBREQUESTS_64", 64),
        ("subrequests", "SUBREQUESTS_128", 128),
        ("uri_changes", "URI_CHANGES_1", 1),
        ("uri_changes", "URI_CHANGES_2", 2),
        ("uri_changes", "URI_CHANGES_4", 4),
        ("uri_changes", "URI_CHANGES_8", 8),
    ];

    fn write_bits() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
        let (source, program) = (out.join("bits.c"), out.join("bits"));
        let mut text = String::from(
            "#include <ngx_config.h>\n#include <ngx_core.h>\n#include <ngx_http.h>\n\
             static ngx_http_request_t r;\n\
             static void say(const char *name) {\n\
             unsigned char *p = (unsigned char *) &r;\n\
             for (size_t i = 0; i < sizeof(r); i++) { if (p[i]) printf(\"pub(crate) const %s: Bit = Bit::new(%zu, %d);\\n\", name, i, p[i]); }\n\
             }\n\
             int main(void) {\n",
        );
        for (field, name, value) in BITS {
            text += &format!("r.{field} = {value}; say(\"{name}\"); r.{field} = 0;\n");
        }
        text += "return 0;\n}\n";
        let written = fs::write(&source, text);
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        println!("cargo::rerun-if-env-changed=CC");
        let (include, cflags) = (dep("INCLUDE"), dep("CFLAGS"));
        let include = env::split_paths(&include).map(|path| format!("-I{}", path.display()));
        let mut compile = Command::new(&compiler);
        compile
            .args(["-w", "-O1", "-o"])
            .arg(&program)
            .arg(&source)
            .args(cflags.split_whitespace())
            .args(include);
        let said = written
            .and_then(|()| compile.output())
            .unwrap_or_else(|err| refuse(&format!("cannot run {compiler:?}: {err}")));
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stderr);
            refuse(&format!(
                "the C compiler cannot read the nginx headers: {}",
                why.lines().next().unwrap_or_default()
            ));
        }
        let bits = Command::new(&program).output().map(|said| said.stdout).unwrap_or_default();
        if bits.iter().filter(|byte| **byte == b'\n').count() != BITS.len() {
            refuse("cannot find out how the C compiler lays out nginx's requests");
        }
        if let Err(err) = fs::write(out.join("bits.rs"), bits) {
            refuse(&format!("cannot write bits.rs: {err}"));
        }
    }
}
