//! One `AF_XDP` socket as workers use it.
//!
//! A received frame is lent where the kernel has put it, and given back when it is delivered; one that is sent
//! is copied into a chunk of the socket's memory. *Threads.* Any; receiving and sending do not wait for
//! each other.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::xsk::{self, Layout, Mapping, Place, Rx, SendError, Tx};
use crate::virtqueue::{self, Gather};

/// Frames that the kernel takes at once in copy mode: so many wait for a kick at most.
const RUN: u32 = 32;

/// How frames get from a driver to the memory of a socket, the best way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpMode {
    /// The driver puts them there.
    ZeroCopy,
    /// They are copied as soon as the driver has them.
    Copy,
    /// They are copied when the kernel has made packets of them, for a driver that runs no XDP programs.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        })
    }
}

/// A socket that is bound to a queue of a device.
#[derive(Debug)]
pub struct XdpQueue {
    socket: Arc<OwnedFd>,
    rx: Mutex<Rx>,
    tx: Mutex<Line>,
    /// The device did not take all that was in line.
    late: AtomicBool,
    mode: XdpMode,
}

/// What is sent.
#[derive(Debug)]
struct Line {
    tx: Tx,
    state: State,
    /// Frames that were taken for sending, and then lost; not told yet.
    lost: u32,
}

/// What the last kick said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Gone,
}

impl XdpQueue {
    /// Binds `socket`, whose memory is `memory`, to `place`.
    ///
    /// # Errors
    ///
    /// Those of [`xsk::start`].
    pub fn new(socket: OwnedFd, memory: Mapping, layout: Layout, place: Place) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let (rx, tx, zero_copy) = xsk::start(Arc::clone(&socket), memory, layout, place)?;
        Ok(Self {
            socket,
            rx: Mutex::new(rx),
            tx: Mutex::new(Line {
                tx,
                state: State::Up,
                lost: 0,
            }),
            late: AtomicBool::new(false),
            mode: if place.copies {
                XdpMode::Generic
            } else if zero_copy {
                XdpMode::ZeroCopy
            } else {
                XdpMode::Copy
            },
        })
    }

    /// How frames get here.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Begins to receive: the frames that are taken go back when the guard does.
    pub(in crate::uplink) fn lend(&self) -> Lent<'_> {
        if self.late.load(Ordering::Relaxed) {
            let mut line = lock(&self.tx);
            line.kick();
            self.note(&mut line);
        }
        Lent(lock(&self.rx))
    }

    /// Puts a frame in line, which goes with [`XdpQueue::flush`] at the latest.
    pub(in crate::uplink) fn send(&self, frame: &Gather<'_>) -> io::Result<()> {
        let mut line = lock(&self.tx);
        if line.state != State::Up {
            line.look_again()?;
        }
        let head = frame.head.len();
        let pushed = line.tx.push(head + frame.rest_len, |chunk| {
            let (start, rest) = chunk.split_at_mut(head);
            start.copy_from_slice(frame.head);
            head + virtqueue::read(frame.rest, frame.rest_skip, rest)
        });
        match pushed {
            Ok(()) => {}
            Err(SendError::Full) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(SendError::TooLong) => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            Err(SendError::Short) => return Err(io::ErrorKind::WriteZero.into()),
        }
        if line.tx.unpublished() >= RUN {
            line.kick();
        }
        Ok(())
    }

    /// Sends what is in line; how many frames that were in line are lost.
    pub(in crate::uplink) fn flush(&self) -> u32 {
        let mut line = lock(&self.tx);
        if line.tx.unpublished() > 0 {
            line.kick();
        }
        self.note(&mut line);
        std::mem::take(&mut line.lost)
    }

    /// Whether frames are in line that the device did not take.
    pub(in crate::uplink) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Nobody tries again and again on a device that is down.
    fn note(&self, line: &mut Line) {
        let late = line.state == State::Up && line.tx.is_late();
        self.late.store(late, Ordering::Relaxed);
    }
}

impl Line {
    fn kick(&mut self) {
        match self.tx.kick() {
            Ok(lost) => {
                self.state = State::Up;
                self.lost += lost;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                self.state = State::Gone;
                self.lost += self.tx.withdraw();
            }
            Err(_) => self.state = State::Down,
        }
    }

    /// Whether a device that was down is up again. Frames that are in line since then go first.
    #[cold]
    fn look_again(&mut self) -> io::Result<()> {
        if self.state == State::Down {
            self.kick();
        }
        match self.state {
            State::Up => Ok(()),
            State::Down => Err(io::Error::from_raw_os_error(libc::ENETDOWN)),
            State::Gone => Err(io::Error::from_raw_os_error(libc::ENXIO)),
        }
    }
}

impl AsRawFd for XdpQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Frames that are ours until the end.
#[derive(Debug)]
pub struct Lent<'a>(MutexGuard<'a, Rx>);

impl Lent<'_> {
    /// The next frame.
    #[inline]
    pub fn take(&mut self) -> io::Result<&mut [u8]> {
        self.0
            .take()
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// The frames that were taken, in their order.
    #[inline]
    pub fn taken(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.0.taken()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// Nobody panics while holding a direction.
fn lock<T>(direction: &Mutex<T>) -> MutexGuard<'_, T> {
    direction.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::XdpSpec;
    use crate::uplink::testing::{in_namespace, ip};
    use crate::uplink::xdp::{SEND, layout, open, slice};

    #[test]
    fn a_full_line_refuses_and_goes_on_when_it_has_gone() {
        in_namespace(|| {
            ip("link add va type veth peer name vb");
            for name in ["va", "vb"] {
                ip(&format!("link set {name} addrgenmode none up"));
            }
            let spec = XdpSpec {
                device: "va".to_owned(),
                queues: 1,
                take_parent: false,
                sheltered: false,
            };
            let opened = open(&spec).unwrap();
            let layout = layout("va", opened.facts.mtu.into()).unwrap();
            let memory = slice(&opened.queues[1], layout, 0).unwrap();
            let socket = opened.queues[0].try_clone().unwrap();
            let place = Place {
                ifindex: opened.facts.ifindex,
                queue: 0,
                copies: false,
            };
            let queue = XdpQueue::new(socket, memory, layout, place).unwrap();
            let mut line = lock(&queue.tx);
            for round in 0..3 {
                for _ in 0..SEND {
                    let pushed = line.tx.push(60, |chunk| {
                        chunk.fill(2);
                        chunk.len()
                    });
                    assert_eq!(pushed, Ok(()), "round {round}");
                }
                let refused = line.tx.push(60, |_| panic!("there is no room"));
                assert_eq!(refused, Err(SendError::Full));
                assert_eq!(line.tx.push(2049, |_| 0), Err(SendError::TooLong));
                line.tx.kick().unwrap();
                assert!(!line.tx.is_late());
            }
            // What is not whole is not sent, and its chunk is not lost.
            for _ in 0..=SEND {
                assert_eq!(line.tx.push(60, |_| 59), Err(SendError::Short));
            }
            assert_eq!(line.tx.unpublished(), 0);
        });
    }
}
