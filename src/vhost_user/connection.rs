//! The connection: messages in, answers out, until one side has enough.
//!
//! Runs on a thread of its own, which blocks as long as the front end is silent. To end it from
//! outside, shut the socket down.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error};

use super::features::DevicePolicy;
use super::host::PortHost;
use super::session::{SHARE_HINT, Session};
use crate::frame::mac::Mac;
use crate::sys::socket;

/// Bytes of a message's header: request, flags, size, each 32 bits in the machine's byte order.
const HEADER: usize = 12;
/// Bytes of the longest body that the vhost crate takes.
const MAX_BODY: usize = 4096;
/// Protocol version 1, and the flags of a header.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const FLAG_REPLY: u32 = 4;
const FLAG_NEED_REPLY: u32 = 8;
/// How long a driver that is ready may take to hand over its memory before a hint is logged.
const MEMORY_HINT_MS: i32 = 1000;

/// Why a connection was ended from this side.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The message that was refused, by name where it has one.
    message: String,
    why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.why)
    }
}

impl std::error::Error for Refusal {}

/// One front end's connection.
pub struct Connection {
    stream: UnixStream,
    session: Arc<Session>,
    handler: BackendReqHandler<Session>,
    port: String,
}

impl Connection {
    /// Prepares to serve `stream` as the device of the port named `port`.
    ///
    /// # Errors
    ///
    /// The error of duplicating the descriptor or of making it blocking.
    pub fn new(
        stream: UnixStream,
        port: &str,
        policy: DevicePolicy,
        host: Arc<dyn PortHost>,
    ) -> io::Result<Self> {
        // The vhost crate spins on a socket that would block.
        stream.set_nonblocking(false)?;
        let session = Arc::new(Session::new(host, policy));
        let handler = BackendReqHandler::from_stream(stream.try_clone()?, Arc::clone(&session));
        Ok(Self {
            stream,
            session,
            handler,
            port: port.to_owned(),
        })
    }

    /// Serves the front end until it leaves (`Ok`) or has to be shown the door.
    ///
    /// On return no worker uses anything of this front end any more, and its memory is unmapped.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the message that could not be followed, and why.
    pub fn run(mut self) -> Result<(), Refusal> {
        let end = self.serve();
        self.session.close();
        end
    }

    fn serve(&mut self) -> Result<(), Refusal> {
        let mut hinted = false;
        loop {
            if self.session.lacks_memory()
                && !hinted
                && !socket::wait_readable(self.stream.as_fd(), MEMORY_HINT_MS)
            {
                log::warn!(
                    "port {}: the front end has a driver but hands over no memory, which has to be \
                     shared. {SHARE_HINT}",
                    self.port
                );
                hinted = true;
            }
            let Some(bytes) = self.next_header()? else {
                return Ok(());
            };
            let header = Header::decode(&bytes);
            let result = match FrontendReq::try_from(header.request) {
                Ok(
                    FrontendReq::SET_VRING_ENABLE
                    | FrontendReq::SEND_RARP
                    | FrontendReq::NET_SET_MTU,
                ) => self.handle_here(&header),
                _ => self.handler.handle_request(),
            };
            match result {
                Ok(()) => {}
                // The peer closed, or we are being shut down.
                Err(Error::Disconnected | Error::SocketBroken(_)) => return Ok(()),
                Err(error) => {
                    let why = self
                        .session
                        .take_failure()
                        .unwrap_or_else(|| explain(&error, &header));
                    return Err(Refusal {
                        message: header.name(),
                        why,
                    });
                }
            }
        }
    }

    /// Waits for a message and returns its header, taking nothing; `None` when the peer has left.
    ///
    /// The vhost crate reads a body in one call and takes what has not arrived yet for missing, so
    /// the whole message is waited for.
    fn next_header(&self) -> Result<Option<[u8; HEADER]>, Refusal> {
        let peek = |buffer: &mut [u8]| match socket::peek(self.stream.as_fd(), buffer) {
            Ok(n) => Ok(n),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(Refusal {
                message: "socket".to_owned(),
                why: error.to_string(),
            }),
        };
        let mut message = [0; HEADER + MAX_BODY];
        match peek(&mut message[..HEADER])? {
            HEADER => {}
            0 => return Ok(None),
            n => {
                return Err(Refusal {
                    message: "message".to_owned(),
                    why: format!("the stream ends after {n} of {HEADER} header bytes"),
                });
            }
        }
        let bytes = std::array::from_fn(|i| message[i]);
        let size = Header::decode(&bytes).size as usize;
        if size <= MAX_BODY {
            peek(&mut message[..HEADER + size])?;
        }
        Ok(Some(bytes))
    }

    /// The messages that the vhost crate does not know (SEND_RARP, NET_SET_MTU), or refuses before
    /// SET_FEATURES, where QEMU sends it first (SET_VRING_ENABLE). All carry eight bytes.
    fn handle_here(&mut self, header: &Header) -> Result<(), Error> {
        const BODY: usize = 8;
        if header.flags & VERSION_MASK != VERSION
            || header.flags & FLAG_REPLY != 0
            || header.size as usize != BODY
        {
            return Err(Error::InvalidMessage);
        }
        let mut message = [0; HEADER + BODY];
        self.stream
            .read_exact(&mut message)
            .map_err(Error::SocketBroken)?;
        let [.., a0, a1, a2, a3, b0, b1, b2, b3] = message;
        let low = u32::from_ne_bytes([a0, a1, a2, a3]);
        let high = u32::from_ne_bytes([b0, b1, b2, b3]);
        let result = match FrontendReq::try_from(header.request) {
            Ok(FrontendReq::SET_VRING_ENABLE) => self.session.enable(low, high),
            Ok(FrontendReq::SEND_RARP) => {
                self.session.send_rarp(Mac::new([a0, a1, a2, a3, b0, b1]));
                Ok(())
            }
            _ => self
                .session
                .net_set_mtu(u64::from_ne_bytes([a0, a1, a2, a3, b0, b1, b2, b3])),
        };
        if header.flags & FLAG_NEED_REPLY != 0 && self.session.acknowledges() {
            let mut reply = Vec::with_capacity(HEADER + BODY);
            for word in [header.request, VERSION | FLAG_REPLY, BODY as u32] {
                reply.extend_from_slice(&word.to_ne_bytes());
            }
            reply.extend_from_slice(&u64::from(result.is_err()).to_ne_bytes());
            self.stream.write_all(&reply).map_err(Error::SocketBroken)?;
        }
        result
    }
}

/// The header of a message that has been looked at, not yet taken.
struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

impl Header {
    fn decode(bytes: &[u8; HEADER]) -> Self {
        let word =
            |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self {
            request: word(0),
            flags: word(4),
            size: word(8),
        }
    }

    fn name(&self) -> String {
        FrontendReq::try_from(self.request).map_or_else(
            |()| format!("message {}", self.request),
            |request| format!("{request:?}"),
        )
    }
}

/// What an error of the vhost crate says about the message.
fn explain(error: &Error, header: &Header) -> String {
    match error {
        Error::InvalidMessage => format!(
            "unknown or malformed message (flags {:#x}, {} bytes): wrong size, version or number of \
             descriptors",
            header.flags, header.size
        ),
        Error::InactiveFeature(bits) => format!("feature {bits:?} was not negotiated"),
        Error::InactiveOperation(bits) => format!("protocol feature {bits:?} was not negotiated"),
        error => error.to_string(),
    }
}
