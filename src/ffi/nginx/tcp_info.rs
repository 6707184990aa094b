//! What the kernel reports about a TCP connection.

use crate::base::clock::Msec;
use crate::reuse::stale::TcpCounters;

use crate::ffi::nginx::conn::Conn;

/// The result of one system call.
#[derive(Clone, Copy)]
pub(crate) struct TcpState {
    pub(crate) counts: TcpCounters,
    /// The other side has sent its FIN, and this side has not. This can be older than the counters.
    pub(crate) has_fin: bool,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::offset_of;

    use super::*;

    /// The beginning of `struct tcp_info` (linux/tcp.h). The crate libc has an older version, which ends before the
    /// counters.
    #[repr(C)]
    struct TcpInfo {
        state: u8,
        others: [u8; 119],
        bytes_acked: u64,
        bytes_received: u64,
    }

    /// `TCP_CLOSE_WAIT` of `tcpi_state`.
    const CLOSE_WAIT: u8 = 8;

    impl TcpState {
        /// Asks the kernel. `None` if the connection is not TCP, or the kernel has no such counters.
        pub(crate) fn about(conn: Conn) -> Option<Self> {
            const { assert!(offset_of!(TcpInfo, bytes_received) == 128) };
            let mut info = TcpInfo { state: 0, others: [0; 119], bytes_acked: 0, bytes_received: 0 };
            let mut length = size_of::<TcpInfo>() as libc::socklen_t;
            let memory = (&raw mut info).cast();
            // SAFETY: the socket is open, and the structure has `length` bytes.
            let rc = unsafe {
                libc::getsockopt(conn.fd(), libc::IPPROTO_TCP, libc::TCP_INFO, memory, &mut length)
            };
            let whole = rc == 0 && length as usize >= size_of::<TcpInfo>();
            whole.then_some(Self {
                counts: TcpCounters { acknowledged: info.bytes_acked, received: info.bytes_received },
                has_fin: info.state == CLOSE_WAIT,
            })
        }
    }

    /// The beginning of `struct tcp_info` up to the shortest round trip of the last minutes (since Linux 4.6), in
    /// microseconds.
    #[repr(C)]
    struct Path {
        others: [u8; 148],
        round_trip: u32,
    }

    /// The time of a round trip on the network, in milliseconds, rounded up; `None` if the connection is not TCP, or the
    /// kernel does not know it.
    pub(crate) fn round_trip(conn: Conn) -> Option<Msec> {
        const UNKNOWN: u32 = u32::MAX;
        const { assert!(offset_of!(Path, round_trip) == 148) };
        let mut path = Path { others: [0; 148], round_trip: UNKNOWN };
        let mut length = size_of::<Path>() as libc::socklen_t;
        let memory = (&raw mut path).cast();
        // SAFETY: the socket is open, and the structure has `length` bytes.
        let rc =
            unsafe { libc::getsockopt(conn.fd(), libc::IPPROTO_TCP, libc::TCP_INFO, memory, &mut length) };
        let is_known = rc == 0 && length as usize >= size_of::<Path>() && path.round_trip != UNKNOWN;
        is_known.then(|| path.round_trip.div_ceil(1000) as Msec)
    }

    /// The number of sent bytes that are not acknowledged; `None` if the connection is not TCP.
    pub(crate) fn unacknowledged(conn: Conn) -> Option<u64> {
        TcpState::about(conn)?;
        let mut bytes: libc::c_int = 0;
        // For sockets this request is called SIOCOUTQ.
        // SAFETY: the socket is open, and the request writes one `int`.
        let rc = unsafe { libc::ioctl(conn.fd(), libc::TIOCOUTQ, &raw mut bytes) };
        u64::try_from(bytes).ok().filter(|_| rc == 0)
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{round_trip, unacknowledged};

#[cfg(not(target_os = "linux"))]
impl TcpState {
    pub(crate) fn about(_: Conn) -> Option<Self> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged(_: Conn) -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn round_trip(_: Conn) -> Option<Msec> {
    None
}
