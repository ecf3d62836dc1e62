//! The front end of vhost-user: the part that a virtual machine monitor plays.
//!
//! Used by tests and the benchmark, and by an uplink that joins another daemon as its guest. It speaks in
//! QEMU's or in cloud-hypervisor's order, each message can also be sent on its own, and [`FrontEnd::raw`]
//! sends what no sane front end would.
//!
//! *Threads.* One at a time; each request is over, acknowledged where that was negotiated, when its
//! method returns. It knows the memory and where rings lie, not what is in them.

mod handshake;
mod wire;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures as Protocol};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::virtqueue::driver::{DriverMemory, DriverRegion, RingLayout, RxQueue, TxQueue};

pub use handshake::Order;
pub use wire::{FrontEndError, NEED_REPLY, REPLY, VERSION, message};
use wire::{Wire, body, vring_state};

#[cfg(test)]
mod tests;

/// `VHOST_USER_F_PROTOCOL_FEATURES`, in the virtio feature bits.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_F_LOG_ALL`, in the virtio feature bits.
pub const LOG_ALL: u64 = 1 << 26;
/// `VHOST_VRING_F_LOG`: log writes to the used ring.
const VRING_F_LOG: u32 = 1;
/// Set in the index of a kick or call message that carries no descriptor.
const NO_FD: u64 = 1 << 8;

/// What a front end wants of the connection.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose order of messages.
    pub order: Order,
    /// Virtio feature bits to acknowledge where they are offered.
    pub features: u64,
    /// Protocol feature bits likewise.
    pub protocol_features: u64,
    /// Queue pairs of the device.
    pub queue_pairs: u16,
    /// MTU to announce, in QEMU's order.
    pub mtu: Option<u16>,
    /// This connection follows a lost one: `protocol_features` are set without being asked for.
    pub resumed: bool,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            order: Order::Qemu,
            features: !LOG_ALL,
            protocol_features: (Protocol::MQ
                | Protocol::LOG_SHMFD
                | Protocol::RARP
                | Protocol::REPLY_ACK
                | Protocol::MTU
                | Protocol::CONFIG
                | Protocol::CONFIGURE_MEM_SLOTS
                | Protocol::RESET_DEVICE)
                .bits(),
            queue_pairs: 1,
            mtu: None,
            resumed: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// One ring to start.
#[derive(Debug, Clone, Copy)]
pub struct RingSetup<'a> {
    /// Where it lies, in guest addresses.
    pub layout: RingLayout,
    /// Where the back end is told to begin.
    pub base: u32,
    /// Wakes the back end.
    pub kick: &'a EventFd,
    /// Wakes the guest; a guest that polls has none.
    pub call: Option<&'a EventFd>,
    /// Log writes to the used ring.
    pub log: bool,
}

impl<'a> RingSetup<'a> {
    /// A ring as each front end resumes it: QEMU at the used index, cloud-hypervisor at the avail index.
    pub fn of_rx(queue: &'a RxQueue, order: Order) -> Self {
        Self {
            layout: queue.layout(),
            base: queue.base(order == Order::Qemu),
            kick: queue.kick_fd(),
            call: Some(queue.call_fd()),
            log: false,
        }
    }

    /// The same for a transmit queue.
    pub fn of_tx(queue: &'a TxQueue, order: Order) -> Self {
        Self {
            layout: queue.layout(),
            base: queue.base(order == Order::Qemu),
            kick: queue.kick_fd(),
            call: Some(queue.call_fd()),
            log: false,
        }
    }
}

/// A socket on which this front end is the server.
#[derive(Debug)]
pub struct FrontEndListener {
    listener: UnixListener,
}

impl FrontEndListener {
    /// Waits for the back end to connect; the caller has polled the descriptor if it must not block.
    pub fn accept(&self, options: Options) -> io::Result<FrontEnd> {
        FrontEnd::from_stream(self.listener.accept()?.0, options)
    }

    /// The socket, to poll or to make non-blocking.
    pub fn socket(&self) -> &UnixListener {
        &self.listener
    }
}

/// One connection to a back end.
#[derive(Debug)]
pub struct FrontEnd {
    wire: Wire,
    options: Options,
    offered: u64,
    features: u64,
    protocol: u64,
    queue_num: Option<u64>,
    mem_slots: Option<u64>,
    ack_everything: bool,
    /// Guest address and size of the regions that the back end has.
    known: Vec<(u64, u64)>,
    masked: EventFd,
}

impl FrontEnd {
    /// Connects to a back end that listens. Nothing is said yet.
    pub fn connect(path: &Path, options: Options) -> io::Result<Self> {
        Self::from_stream(UnixStream::connect(path)?, options)
    }

    /// Listens for a back end that connects.
    pub fn listen(path: &Path) -> io::Result<FrontEndListener> {
        Ok(FrontEndListener {
            listener: UnixListener::bind(path)?,
        })
    }

    /// Takes a connected stream.
    pub fn from_stream(stream: UnixStream, options: Options) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::new(stream, options.timeout)?,
            options,
            offered: 0,
            features: 0,
            protocol: 0,
            queue_num: None,
            mem_slots: None,
            ack_everything: false,
            known: Vec::new(),
            masked: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// What was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Virtio features that the back end offers.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Virtio features in use: offered and wanted.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Wants other features from now on: another driver has taken over the device.
    pub fn want(&mut self, features: u64) {
        self.options.features = features;
        self.features = self.offered & features;
    }

    /// Protocol features in use.
    pub fn protocol_features(&self) -> u64 {
        self.protocol
    }

    /// The answer to `GET_QUEUE_NUM`, if that was asked.
    pub fn queue_num(&self) -> Option<u64> {
        self.queue_num
    }

    /// The answer to `GET_MAX_MEM_SLOTS`, if that was asked.
    pub fn mem_slots(&self) -> Option<u64> {
        self.mem_slots
    }

    fn has_protocol(&self, feature: Protocol) -> bool {
        self.protocol & feature.bits() != 0
    }

    /// Sends a request and waits for the acknowledgement, if one was asked for by `flags`.
    fn tell(
        &mut self,
        request: FrontendReq,
        flags: u32,
        body: &[u8],
        fds: &[RawFd],
    ) -> Result<(), FrontEndError> {
        self.wire.request(request, flags, body, fds)?;
        if flags & NEED_REPLY == 0 {
            return Ok(());
        }
        match u64::from_ne_bytes(self.wire.reply_of(request)?) {
            0 => Ok(()),
            value => Err(FrontEndError::Refused { request, value }),
        }
    }

    /// A request with a number for an answer.
    fn ask(&mut self, request: FrontendReq) -> Result<u64, FrontEndError> {
        self.wire.request(request, self.ack_flag(false), &[], &[])?;
        Ok(u64::from_ne_bytes(self.wire.reply_of(request)?))
    }

    /// `GET_FEATURES`: what is offered; what of it is wanted is what `start` will set.
    pub fn get_features(&mut self) -> Result<u64, FrontEndError> {
        self.offered = self.ask(FrontendReq::GET_FEATURES)?;
        self.features = self.offered & self.options.features;
        Ok(self.offered)
    }

    /// `SET_FEATURES`, on stopped or running rings.
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontEndError> {
        // QEMU wants to know that it is done where logging goes on.
        let flags = self.ack_flag(features & LOG_ALL != 0);
        self.features = features;
        self.tell(FrontendReq::SET_FEATURES, flags, &body(&[features]), &[])
    }

    /// `GET_PROTOCOL_FEATURES`: what is offered; what of it is wanted is in use from now on.
    pub fn get_protocol_features(&mut self) -> Result<u64, FrontEndError> {
        let offered = self.ask(FrontendReq::GET_PROTOCOL_FEATURES)?;
        self.protocol = offered & self.options.protocol_features;
        Ok(offered)
    }

    /// `SET_PROTOCOL_FEATURES`.
    pub fn set_protocol_features(&mut self, features: u64) -> Result<(), FrontEndError> {
        self.protocol = features;
        self.tell(
            FrontendReq::SET_PROTOCOL_FEATURES,
            self.ack_flag(false),
            &body(&[features]),
            &[],
        )
    }

    /// `GET_QUEUE_NUM`.
    pub fn get_queue_num(&mut self) -> Result<u64, FrontEndError> {
        let num = self.ask(FrontendReq::GET_QUEUE_NUM)?;
        self.queue_num = Some(num);
        Ok(num)
    }

    /// `GET_MAX_MEM_SLOTS`.
    pub fn get_max_mem_slots(&mut self) -> Result<u64, FrontEndError> {
        let slots = self.ask(FrontendReq::GET_MAX_MEM_SLOTS)?;
        self.mem_slots = Some(slots);
        Ok(slots)
    }

    /// `SET_OWNER`.
    pub fn set_owner(&mut self) -> Result<(), FrontEndError> {
        self.tell(FrontendReq::SET_OWNER, self.ack_flag(false), &[], &[])
    }

    /// `RESET_OWNER`.
    pub fn reset_owner(&mut self) -> Result<(), FrontEndError> {
        self.tell(FrontendReq::RESET_OWNER, self.ack_flag(false), &[], &[])
    }

    /// `RESET_DEVICE`.
    pub fn reset_device(&mut self) -> Result<(), FrontEndError> {
        self.tell(FrontendReq::RESET_DEVICE, self.ack_flag(false), &[], &[])
    }

    /// `SET_MEM_TABLE` with all regions of `memory`.
    pub fn set_mem_table(&mut self, memory: &DriverMemory) -> Result<(), FrontEndError> {
        let regions = memory.regions();
        let mut table = vring_state(regions.len() as u32, 0);
        table.extend(regions.iter().flat_map(region_bytes));
        let fds: Vec<_> = regions.iter().map(|r| r.file().as_raw_fd()).collect();
        self.known = regions.iter().map(identity).collect();
        self.tell(
            FrontendReq::SET_MEM_TABLE,
            self.ack_flag(true),
            &table,
            &fds,
        )
    }

    /// `ADD_MEM_REG`.
    pub fn add_region(&mut self, region: &DriverRegion) -> Result<(), FrontEndError> {
        let bytes = [body(&[0]), region_bytes(region)].concat();
        let fd = region.file().as_raw_fd();
        self.known.push(identity(region));
        self.tell(FrontendReq::ADD_MEM_REG, self.ack_flag(true), &bytes, &[fd])
    }

    /// `REM_MEM_REG`.
    pub fn remove_region(&mut self, region: &DriverRegion) -> Result<(), FrontEndError> {
        let bytes = [body(&[0]), region_bytes(region)].concat();
        self.known.retain(|&known| known != identity(region));
        self.tell(FrontendReq::REM_MEM_REG, self.ack_flag(true), &bytes, &[])
    }

    /// `SET_VRING_NUM`.
    pub fn set_vring_num(&mut self, ring: u32, num: u32) -> Result<(), FrontEndError> {
        self.tell(
            FrontendReq::SET_VRING_NUM,
            self.ack_flag(false),
            &vring_state(ring, num),
            &[],
        )
    }

    /// `SET_VRING_BASE`.
    pub fn set_vring_base(&mut self, ring: u32, base: u32) -> Result<(), FrontEndError> {
        self.tell(
            FrontendReq::SET_VRING_BASE,
            self.ack_flag(false),
            &vring_state(ring, base),
            &[],
        )
    }

    /// `SET_VRING_ADDR`, on a stopped or a running ring.
    pub fn set_vring_addr(
        &mut self,
        ring: u32,
        memory: &DriverMemory,
        setup: &RingSetup<'_>,
    ) -> Result<(), FrontEndError> {
        let user = |guest: u64| memory.user_addr(guest).ok_or(FrontEndError::Address(guest));
        let RingLayout {
            desc, avail, used, ..
        } = setup.layout;
        let (flags, log) = if setup.log {
            (VRING_F_LOG, used)
        } else {
            (0, 0)
        };
        let addresses = body(&[user(desc)?, user(used)?, user(avail)?, log]);
        let bytes = [vring_state(ring, flags), addresses].concat();
        self.tell(
            FrontendReq::SET_VRING_ADDR,
            self.ack_flag(setup.log),
            &bytes,
            &[],
        )
    }

    /// `SET_VRING_KICK`, `SET_VRING_CALL` or `SET_VRING_ERR`, with a descriptor or with the mark that
    /// there is none.
    pub fn set_vring_fd(
        &mut self,
        request: FrontendReq,
        ring: u32,
        fd: Option<RawFd>,
    ) -> Result<(), FrontEndError> {
        let index = u64::from(ring) | if fd.is_none() { NO_FD } else { 0 };
        self.tell(
            request,
            self.ack_flag(false),
            &body(&[index]),
            fd.as_slice(),
        )
    }

    /// `SET_VRING_ENABLE`.
    pub fn enable(&mut self, ring: u32, on: bool) -> Result<(), FrontEndError> {
        let bytes = vring_state(ring, on.into());
        self.tell(
            FrontendReq::SET_VRING_ENABLE,
            self.ack_flag(false),
            &bytes,
            &[],
        )
    }

    /// `GET_VRING_BASE`: stops the ring and returns where the back end stood.
    pub fn stop_ring(&mut self, ring: u32) -> Result<u32, FrontEndError> {
        let request = FrontendReq::GET_VRING_BASE;
        self.wire
            .request(request, self.ack_flag(false), &vring_state(ring, 0), &[])?;
        let reply: [u8; 8] = self.wire.reply_of(request)?;
        let [index, base] = [0, 4]
            .map(|i| u32::from_ne_bytes([reply[i], reply[i + 1], reply[i + 2], reply[i + 3]]));
        if index == ring {
            Ok(base)
        } else {
            Err(wrong(request, 8))
        }
    }

    /// `SET_LOG_BASE`: the log is `size` bytes of `fd`, from `offset`. The answer repeats both.
    pub fn set_log_base(&mut self, fd: RawFd, size: u64, offset: u64) -> Result<(), FrontEndError> {
        if !self.has_protocol(Protocol::LOG_SHMFD) {
            return Err(FrontEndError::NotNegotiated("LOG_SHMFD"));
        }
        let request = FrontendReq::SET_LOG_BASE;
        let log = body(&[size, offset]);
        self.wire
            .request(request, self.ack_flag(false), &log, &[fd])?;
        // cloud-hypervisor takes nothing else than these 16 bytes.
        let reply: [u8; 16] = self.wire.reply_of(request)?;
        if reply[..] == log[..] {
            Ok(())
        } else {
            Err(wrong(request, 16))
        }
    }

    /// `SEND_RARP`.
    pub fn send_rarp(&mut self, mac: [u8; 6]) -> Result<(), FrontEndError> {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&mac);
        self.tell(FrontendReq::SEND_RARP, self.ack_flag(false), &bytes, &[])
    }

    /// `NET_SET_MTU`.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), FrontEndError> {
        self.tell(
            FrontendReq::NET_SET_MTU,
            self.ack_flag(true),
            &body(&[mtu.into()]),
            &[],
        )
    }

    /// `GET_CONFIG`: `size` bytes of the device's configuration space from `offset`.
    pub fn get_config(&mut self, offset: u32, size: u32) -> Result<Vec<u8>, FrontEndError> {
        let request = FrontendReq::GET_CONFIG;
        let mut bytes = [offset, size, 0].map(u32::to_ne_bytes).concat();
        let fixed = bytes.len();
        bytes.resize(fixed + size as usize, 0);
        self.wire
            .request(request, self.ack_flag(false), &bytes, &[])?;
        let mut reply = self.wire.reply(request)?;
        if reply.len() != bytes.len() || reply[..fixed - 4] != bytes[..fixed - 4] {
            return Err(wrong(request, reply.len() as u32));
        }
        Ok(reply.split_off(fixed))
    }

    /// Sends any bytes and descriptors; [`message`] helps to make some that are nearly right.
    pub fn raw(&mut self, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        self.wire.send(bytes, fds)
    }

    /// Sends a request with a body of the caller's making, and asks for no answer.
    pub fn raw_request(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        fds: &[RawFd],
    ) -> io::Result<()> {
        self.raw(&message(request.into(), VERSION, body), fds)
    }

    /// The connection, to read replies to `raw` or to see it end.
    pub fn stream(&self) -> &UnixStream {
        self.wire.stream()
    }
}

impl Drop for FrontEnd {
    /// Ends the connection now, even where a process that is being started still has a copy of the socket.
    fn drop(&mut self) {
        // The back end may have ended it already.
        let _ = self.stream().shutdown(Shutdown::Both);
    }
}

fn identity(region: &DriverRegion) -> (u64, u64) {
    (region.guest_addr(), region.size())
}

/// A reply whose header is right and whose body is not.
fn wrong(request: FrontendReq, size: u32) -> FrontEndError {
    FrontEndError::Reply {
        request,
        code: request.into(),
        flags: REPLY | VERSION,
        size,
    }
}

/// A region as it stands in `SET_MEM_TABLE` and `ADD_MEM_REG`.
fn region_bytes(region: &DriverRegion) -> Vec<u8> {
    body(&[region.guest_addr(), region.size(), region.user_addr(), 0])
}
