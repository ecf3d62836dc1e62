//! vhost-user messages on a stream, from the front end's side.
//!
//! Every wait is bounded by the timeout of the stream, so that a silent daemon costs an error, not a
//! thread. Message numbers and feature bits are those of the `vhost` crate; its own `Frontend` is not
//! used because it waits for ever, cuts vring bases to 16 bits and does not know all messages.

use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use thiserror::Error;
use vhost::vhost_user::message::{FrontendReq, MAX_MSG_SIZE};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Protocol version 1, as in every message.
pub const VERSION: u32 = 1;
/// Flag: this is a reply.
pub const REPLY: u32 = 1 << 2;
/// Flag: an acknowledgement is wanted.
pub const NEED_REPLY: u32 = 1 << 3;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum FrontEndError {
    /// The peer closed the connection.
    #[error("the back end closed the connection at {0:?}")]
    Closed(FrontendReq),
    /// It did not answer in time.
    #[error("the back end did not answer {0:?} in time")]
    Silent(FrontendReq),
    /// It answered a request with a failure.
    #[error("the back end refused {request:?} with {value}")]
    Refused {
        /// What was asked.
        request: FrontendReq,
        /// The acknowledgement's value, never 0.
        value: u64,
    },
    /// Its reply is not one to this request.
    #[error("request {request:?} was answered with request {code}, flags {flags:#x}, {size} bytes")]
    Reply {
        /// What was asked.
        request: FrontendReq,
        /// Request number of the answer.
        code: u32,
        /// Its flags.
        flags: u32,
        /// Its size.
        size: u32,
    },
    /// It lacks a feature without which the request makes no sense.
    #[error("{0} was not negotiated")]
    NotNegotiated(&'static str),
    /// A ring address is not in the memory.
    #[error("guest address {0:#x} is not in the memory")]
    Address(u64),
    /// The socket failed.
    #[error("vhost-user socket: {0}")]
    Io(#[from] io::Error),
}

/// The bytes of one message.
pub fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + body.len());
    for word in [request, flags, body.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Joins fields into a body.
pub(super) fn body(fields: &[u64]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
}

/// A vring state: index and number.
pub(super) fn vring_state(index: u32, num: u32) -> Vec<u8> {
    [index.to_ne_bytes(), num.to_ne_bytes()].concat()
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
}

impl Wire {
    pub fn new(stream: UnixStream, timeout: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream })
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends bytes as they are; the descriptors go with the first of them.
    pub fn send(&mut self, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let sent = loop {
            match self.stream.send_with_fds(&[bytes], fds) {
                Ok(n) => break n,
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) => return Err(io::Error::from_raw_os_error(e.errno())),
            }
        };
        self.stream.write_all(&bytes[sent..])
    }

    pub fn request(
        &mut self,
        request: FrontendReq,
        flags: u32,
        body: &[u8],
        fds: &[RawFd],
    ) -> Result<(), FrontEndError> {
        let bytes = message(request.into(), VERSION | flags, body);
        self.send(&bytes, fds).map_err(|e| ended(e, request))
    }

    /// Reads the reply to `request`.
    pub fn reply(&mut self, request: FrontendReq) -> Result<Vec<u8>, FrontEndError> {
        let mut header = [0; 12];
        self.stream
            .read_exact(&mut header)
            .map_err(|e| ended(e, request))?;
        let word =
            |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let (code, flags, size) = (word(0), word(4), word(8));
        if code != u32::from(request)
            || flags & 0x7 != VERSION | REPLY
            || size as usize > MAX_MSG_SIZE
        {
            return Err(FrontEndError::Reply {
                request,
                code,
                flags,
                size,
            });
        }
        let mut body = vec![0; size as usize];
        self.stream
            .read_exact(&mut body)
            .map_err(|e| ended(e, request))?;
        Ok(body)
    }

    /// A reply of exactly `N` bytes.
    pub fn reply_of<const N: usize>(
        &mut self,
        request: FrontendReq,
    ) -> Result<[u8; N], FrontEndError> {
        let body = self.reply(request)?;
        let size = body.len() as u32;
        body.try_into().map_err(|_| FrontEndError::Reply {
            request,
            code: request.into(),
            flags: VERSION | REPLY,
            size,
        })
    }
}

fn ended(error: io::Error, request: FrontendReq) -> FrontEndError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => FrontEndError::Silent(request),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => FrontEndError::Closed(request),
        _ => FrontEndError::Io(error),
    }
}
