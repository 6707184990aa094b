//! Socket addresses, which are compared byte for byte.
#![forbid(unsafe_code)]

/// Room for the longest socket address that nginx knows (`ngx_sockaddr_t`, a unix socket's), in bytes.
pub(crate) const MAX_ADDRESS: usize = 112;
