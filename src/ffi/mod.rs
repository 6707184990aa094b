//! The shell: everything that talks to nginx.
//!
//! In the order of a worker's life: the module table and what `load_module` looks for (`module`),
//! directives (`directives`, `conf`), what happens once the configuration is read (`setup`, `abi`,
//! `stock`), a request (`peer`, `shape`, `session`, `upstream`), an idle connection (`idle`), servers
//! that come and go (`resolve`). Beneath them: pointers with a type (`conn`, `request`), the panic
//! boundary (`guard`), debug lines (`log`).

mod abi;
mod conf;
mod conn;
mod directives;
mod guard;
mod idle;
mod log;
mod module;
mod peer;
mod request;
#[cfg(nginx_resolve)]
mod resolve;
#[cfg(ngx_feature = "http_ssl")]
mod session;
mod setup;
mod shape;
mod stock;
mod upstream;

/// What nginx-sys lacks; made by build.rs.
mod constants {
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
}
