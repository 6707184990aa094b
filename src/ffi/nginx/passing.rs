//! Sockets between processes of nginx, whose messages can carry a descriptor (unix(7), `SCM_RIGHTS`).

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::ffi::nginx::memory::or_fail;

/// How many bytes of messages may be on their way, if the system allows it: some 1,600 messages of 200 bytes.
const ROOM: c_int = 1 << 20;

/// What was received.
pub(crate) enum Received {
    /// A message.
    Message {
        /// Its length, in bytes.
        length: usize,
        /// The descriptor that came with it.
        fd: Option<OwnedFd>,
        /// It was longer than the buffer.
        is_cut: bool,
    },
    /// There is nothing yet.
    Nothing,
    /// There will be nothing any more: the other end is closed.
    End,
}

/// Two ends of a connection that keeps the borders of messages. Each can be read and written.
///
/// # Errors
/// If there are no descriptors.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: an array for two descriptors.
    let rc = or_fail(-1, || unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) });
    if rc == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else has.
    let [first, second] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // The first option stops at a limit of the system; the second one needs a privilege.
    for option in [libc::SO_SNDBUF, libc::SO_SNDBUFFORCE] {
        let room = ROOM;
        let (value, length) = ((&raw const room).cast(), size_of_val(&room) as libc::socklen_t);
        // SAFETY: an open socket; pointer and length are those of a number.
        unsafe { libc::setsockopt(second.as_raw_fd(), libc::SOL_SOCKET, option, value, length) };
    }
    Ok((first, second))
}

/// The memory for a control message with one descriptor, aligned as such a message has to be.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// The length of a control message with one descriptor.
fn control_length() -> usize {
    // SAFETY: takes a number.
    unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize }
}

/// Sends a message, with a copy of a descriptor if one is given.
///
/// # Errors
/// Those of sendmsg(2). Nothing was sent then. `EAGAIN` if there is no room, `ETOOMANYREFS` if this user has too many
/// descriptors on their way.
pub(crate) fn send(to: RawFd, message: &[u8], fd: Option<RawFd>) -> io::Result<()> {
    let mut control = Control([0; 24]);
    let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: a structure of numbers and pointers, all of which may be zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control_length() as _;
        // SAFETY: the control memory is large enough for one header.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: a structure of numbers, all of which may be zero; some C libraries have more of them than others.
        let mut cmsg: libc::cmsghdr = unsafe { std::mem::zeroed() };
        cmsg.cmsg_len = control_length() as _;
        cmsg.cmsg_level = libc::SOL_SOCKET;
        cmsg.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: points at the start of the control memory, which is aligned and large enough.
        unsafe { first.write(cmsg) };
        // SAFETY: behind the header that was written just now.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: the control memory has room for one descriptor there, at any alignment.
        unsafe { ptr::copy_nonoverlapping((&raw const fd).cast::<u8>(), data, size_of_val(&fd)) };
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: an open socket; the header points at the message and the control memory, which are live.
    let sent = or_fail(-1, || unsafe { libc::sendmsg(to, &raw const header, flags) });
    if sent == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Receives the next message.
pub(crate) fn receive(from: RawFd, buffer: &mut [u8]) -> Received {
    let mut control = Control([0; 24]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a structure of numbers and pointers, all of which may be zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    // For one descriptor; the kernel closes others.
    header.msg_controllen = control_length() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: an open socket; the header points at the buffer and the control memory, which are live.
    let received = unsafe { libc::recvmsg(from, &raw mut header, flags) };
    match usize::try_from(received) {
        // No message is empty.
        Ok(0) => Received::End,
        Ok(length) => Received::Message {
            length,
            fd: descriptor_in(&header),
            is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        },
        Err(_) => match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS) => Received::Nothing,
            _ => Received::End,
        },
    }
}

/// The descriptor in the control memory of a received message.
fn descriptor_in(header: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: the header is the one that the kernel has filled.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return None;
    }
    // SAFETY: not null, so there is a control message in the control memory, which is live.
    let cmsg = unsafe { first.read() };
    let is_descriptor = cmsg.cmsg_level == libc::SOL_SOCKET && cmsg.cmsg_type == libc::SCM_RIGHTS;
    if !is_descriptor || (cmsg.cmsg_len as usize) < control_length() {
        return None;
    }
    let mut fd: RawFd = -1;
    // SAFETY: behind the header of a control message that is as long as one with a descriptor.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: the control message has a descriptor there, at any alignment.
    unsafe { ptr::copy_nonoverlapping(data, (&raw mut fd).cast::<u8>(), size_of_val(&fd)) };
    // SAFETY: the kernel has made the descriptor for this process, and nothing else has it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
