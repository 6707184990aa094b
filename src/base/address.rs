//! Socket addresses. They are compared byte for byte.
#![forbid(unsafe_code)]

/// The size of the longest socket address that nginx knows, in bytes (`ngx_sockaddr_t`, a unix socket's).
pub(crate) const MAX_ADDRESS: usize = 112;
