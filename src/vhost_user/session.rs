//! The protocol's state machine: what each message changes.
//!
//! Every handler may be called at any time, in any order, and again. A change that takes something
//! away from the workers (memory, a ring, a log) is answered only after [`PortHost::set_rings`] has
//! returned, that is, when no worker can touch it any more.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandler};
use vmm_sys_util::eventfd::EventFd;

use super::features::{
    CONFIG_SPACE_SIZE, DevicePolicy, VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, has,
};
use super::host::{PortHost, Update};
use super::ring::{Addresses, Device, Kick, Running, Vring, header_len};
use crate::frame::mac::Mac;
use crate::frame::offloads::Offloads;
use crate::sys::eventfd;
use crate::virtqueue::{
    DirtyLog, GuestMemory, MAX_QUEUE_SIZE, MAX_SLOTS, Region, RingError, fresh_base,
};
use crate::worker::{PortRings, TxQueue};

/// The state of one connection.
pub struct Session {
    host: Arc<dyn PortHost>,
    policy: DevicePolicy,
    state: Mutex<State>,
}

struct State {
    device: Device,
    protocol: u64,
    /// LOG_ALL and SET_LOG_BASE arrive separately; the device logs while it has both.
    log_base: Option<Arc<DirtyLog>>,
    vrings: Vec<Vring>,
    /// Counts the device's lives: a new one begins when the first ring starts.
    life: u64,
    failure: Option<String>,
}

impl Session {
    /// A session that has heard nothing yet.
    pub fn new(host: Arc<dyn PortHost>, policy: DevicePolicy) -> Self {
        let vrings = (0..2 * policy.queue_pairs)
            .map(|_| Vring::default())
            .collect();
        let device = Device {
            features: 0,
            memory: None,
            log: None,
            positions: None,
        };
        let state = State {
            device,
            protocol: 0,
            log_base: None,
            vrings,
            life: 0,
            failure: None,
        };
        Self {
            host,
            policy,
            state: Mutex::new(state),
        }
    }

    /// Stops all rings and lets go of the guest's memory.
    pub fn close(&self) {
        let mut state = self.state();
        self.stop_all(&mut state);
        state.device = Device {
            features: 0,
            memory: None,
            log: None,
            positions: None,
        };
        state.log_base = None;
        state.vrings.clear();
    }

    /// Why the last handler refused its message, in words for the operator.
    pub fn take_failure(&self) -> Option<String> {
        self.state().failure.take()
    }

    /// Whether the driver is ready but has handed over no memory: its rings cannot start.
    pub fn lacks_memory(&self) -> bool {
        let state = self.state();
        state.device.features != 0 && state.device.memory.is_none()
    }

    /// Whether the front end may ask for an acknowledgement of any message.
    pub fn acknowledges(&self) -> bool {
        self.state().protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// SET_VRING_ENABLE. Front ends send it before SET_FEATURES, too.
    pub fn enable(&self, index: u32, value: u32) -> Result<()> {
        let mut state = self.state();
        if value > 1 {
            return state.refuse(format!("queue {index}: enable is {value}, not 0 or 1"));
        }
        let vring = state.vring(index)?;
        let enabled = value == 1;
        if vring.enabled == enabled {
            return Ok(());
        }
        vring.enabled = enabled;
        self.publish(&mut state);
        Ok(())
    }

    /// SEND_RARP: the guest arrived by migration and cannot announce itself.
    pub fn send_rarp(&self, mac: Mac) {
        self.host.report(Update::Announce(mac));
    }

    /// NET_SET_MTU: what the guest was told.
    pub fn net_set_mtu(&self, mtu: u64) -> Result<()> {
        let Ok(mtu) = u16::try_from(mtu) else {
            return self
                .state()
                .refuse(format!("an MTU of {mtu} is above 65535"));
        };
        self.host.report(Update::Mtu(mtu));
        Ok(())
    }

    /// The handlers never panic while they hold the lock, and one thread calls them.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Applies everything that changed to vring `index`.
    fn update(&self, state: &mut State, index: u32) -> Result<()> {
        state.vring(index)?;
        let index = index as usize;
        self.apply(state, index..index + 1)
    }

    /// Applies a change that concerns all rings.
    fn update_all(&self, state: &mut State) -> Result<()> {
        let all = 0..state.vrings.len();
        self.apply(state, all)
    }

    fn apply(&self, state: &mut State, indices: Range<usize>) -> Result<()> {
        let before = state.running();
        let known = state.vrings.iter().any(|vring| vring.lost);
        let mut stuck = None;
        for index in indices.clone() {
            let State { device, vrings, .. } = &mut *state;
            match vrings[index].update(index, device) {
                Ok(()) => {}
                Err(error @ RingError::PositionLost) => {
                    stuck.get_or_insert_with(|| format!("queue {index}: {error}"));
                }
                Err(error) => return state.refuse(format!("queue {index}: {error}")),
            }
        }
        if before == 0 && state.running() > 0 {
            state.life += 1;
        }
        if state.vrings[indices].iter().any(Vring::is_live) {
            self.publish(state);
        }
        if let Some(why) = stuck.filter(|_| !known) {
            self.host.report(Update::Stuck(why));
        }
        Ok(())
    }

    fn stop_all(&self, state: &mut State) {
        if state.running() > 0 {
            self.host.set_rings(PortRings::none(state.life));
        }
        for vring in &mut state.vrings {
            vring.stop();
        }
    }

    /// The rings have ended as they should: the next start is from where the front end says.
    fn forget_positions(state: &State, indices: Range<usize>) {
        if let Some(positions) = &state.device.positions {
            indices.for_each(|index| positions.ring(index).forget());
        }
    }

    fn publish(&self, state: &mut State) {
        let mut rings = PortRings::none(state.life);
        rings.header_len = header_len(state.device.features);
        rings.accepts = Offloads::accepted(state.device.features);
        let always = !has(state.device.features, VHOST_USER_F_PROTOCOL_FEATURES);
        let stuck = state.vrings.iter().any(|vring| vring.lost);
        for (index, vring) in state.vrings.iter().enumerate() {
            if stuck || !(vring.enabled || always) {
                continue;
            }
            match &vring.running {
                Some(Running::Rx(ring)) => rings.rx.push(Arc::clone(ring)),
                Some(Running::Tx(ring, flood)) => {
                    let kick = match &vring.kick {
                        Kick::Event(event) => Some(Arc::clone(event)),
                        Kick::Polled | Kick::Stopped => None,
                    };
                    let error = vring.error.clone();
                    let (pair, ring) = ((index / 2) as u16, Arc::clone(ring));
                    rings
                        .tx
                        .push(TxQueue::new(pair, ring, kick, error, Arc::clone(flood)));
                }
                None => {}
            }
        }
        self.host.set_rings(rings);
    }

    fn set_memory(&self, state: &mut State, memory: GuestMemory) -> Result<()> {
        state.device.memory = Some(Arc::new(memory));
        self.update_all(state)
    }

    fn event(
        state: &mut State,
        what: &str,
        index: u8,
        file: Option<File>,
    ) -> Result<Option<Arc<EventFd>>> {
        match file.map(eventfd::adopt).transpose() {
            Ok(event) => Ok(event.map(Arc::new)),
            Err(error) => {
                state.refuse(format!("queue {index}: {what} descriptor: {error}"))?;
                Ok(None)
            }
        }
    }
}

impl State {
    /// Keeps `why` for the log and refuses the message.
    fn refuse(&mut self, why: String) -> Result<()> {
        self.failure = Some(why);
        Err(Error::InvalidParam)
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        let count = self.vrings.len();
        if index as usize >= count {
            self.refuse(format!(
                "queue {index} does not exist: the port offers {pairs} queue pairs, which are queues \
                 0 to {last}; raise `queues` of the port or lower the guest's",
                pairs = count / 2,
                last = count.saturating_sub(1),
            ))?;
        }
        Ok(&mut self.vrings[index as usize])
    }

    fn running(&self) -> usize {
        self.vrings.iter().filter(|vring| vring.is_live()).count()
    }

    fn set_log(&mut self) {
        let wanted = has(self.device.features, VHOST_F_LOG_ALL);
        self.device.log = self.log_base.clone().filter(|_| wanted);
    }
}

/// How a guest's memory is shared.
pub const SHARE_HINT: &str = "For QEMU: `-object memory-backend-memfd,id=mem,size=...,share=on \
     -machine memory-backend=mem`; for cloud-hypervisor: `--memory size=...,shared=on`";

/// Words for a memory region that was refused.
fn region_name(region: &Region) -> String {
    format!(
        "memory region at guest address {:#x}, {} bytes",
        region.guest_addr, region.size
    )
}

impl VhostUserBackendReqHandler for Session {
    fn set_owner(&self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&self) -> Result<()> {
        let mut state = self.state();
        self.stop_all(&mut state);
        Self::forget_positions(&state, 0..state.vrings.len());
        Ok(())
    }

    fn reset_device(&self) -> Result<()> {
        let mut state = self.state();
        self.stop_all(&mut state);
        Self::forget_positions(&state, 0..state.vrings.len());
        for vring in &mut state.vrings {
            *vring = Vring::default();
        }
        state.device.features = 0;
        state.set_log();
        self.host.report(Update::Negotiated(0));
        Ok(())
    }

    fn get_features(&self) -> Result<u64> {
        Ok(self.policy.virtio_features())
    }

    fn set_features(&self, features: u64) -> Result<()> {
        let mut state = self.state();
        let unknown = features & !self.policy.virtio_features();
        if unknown != 0 {
            return state.refuse(format!(
                "features {unknown:#x} were accepted but not offered"
            ));
        }
        if state.device.features == features {
            return Ok(());
        }
        state.device.features = features;
        if state.device.packed() && state.device.positions.is_none() {
            state.device.positions = Some(self.host.positions());
        }
        state.set_log();
        self.host.report(Update::Negotiated(features));
        self.update_all(&mut state)
    }

    fn set_mem_table(
        &self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut state = self.state();
        let regions: Vec<_> = regions
            .iter()
            .zip(files)
            .map(|(region, file)| Region {
                guest_addr: region.guest_phys_addr,
                size: region.memory_size,
                user_addr: region.user_addr,
                offset: region.mmap_offset,
                file,
            })
            .collect();
        match GuestMemory::new(regions) {
            Ok(memory) => self.set_memory(&mut state, memory)?,
            Err(error) => state.refuse(format!("memory table: {error}"))?,
        }
        Ok(None)
    }

    fn set_vring_num(&self, index: u32, num: u32) -> Result<()> {
        let mut state = self.state();
        state.vring(index)?;
        let size = u16::try_from(num)
            .ok()
            .filter(|&n| n.is_power_of_two() && n <= MAX_QUEUE_SIZE);
        let Some(size) = size else {
            return state.refuse(format!(
                "queue {index}: a size of {num} is not a power of two from 1 to {MAX_QUEUE_SIZE}; \
                 set the device's rx_queue_size and tx_queue_size accordingly"
            ));
        };
        let vring = state.vring(index)?;
        if vring.running.is_some() && vring.size != Some(size) {
            return state.refuse(format!(
                "queue {index}: its size cannot change while it runs"
            ));
        }
        vring.size = Some(size);
        Ok(())
    }

    fn set_vring_addr(
        &self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let mut state = self.state();
        let logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        state.vring(index)?.addresses = Some(Addresses {
            desc: descriptor,
            avail: available,
            used,
            log_used: logged.then_some(log),
        });
        self.update(&mut state, index)
    }

    fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        // A running ring keeps its place, and so does one that is started again: it knows better.
        self.state().vring(index)?.base = Some(base);
        Ok(())
    }

    fn get_vring_base(&self, index: u32) -> Result<VhostUserVringState> {
        let mut state = self.state();
        let vring = state.vring(index)?;
        if vring.is_live() {
            // Out of the workers' sight first, so that the index cannot move any more.
            let running = vring.running.take();
            self.publish(&mut state);
            let vring = state.vring(index)?;
            vring.running = running;
            vring.stop();
            let index = index as usize;
            Self::forget_positions(&state, index..index + 1);
        }
        let packed = state.device.packed();
        let vring = state.vring(index)?;
        vring.kick = Kick::Stopped;
        let base = vring.base.unwrap_or(fresh_base(packed));
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&self, index: u8, fd: Option<File>) -> Result<()> {
        let mut state = self.state();
        state.vring(index.into())?;
        let kick = Self::event(&mut state, "kick", index, fd)?;
        state.vring(index.into())?.kick = kick.map_or(Kick::Polled, Kick::Event);
        self.update(&mut state, index.into())
    }

    fn set_vring_call(&self, index: u8, fd: Option<File>) -> Result<()> {
        let mut state = self.state();
        state.vring(index.into())?;
        let call = Self::event(&mut state, "call", index, fd)?;
        state.vring(index.into())?.call = call;
        self.update(&mut state, index.into())
    }

    fn set_vring_err(&self, index: u8, fd: Option<File>) -> Result<()> {
        let mut state = self.state();
        state.vring(index.into())?;
        let error = Self::event(&mut state, "error", index, fd)?;
        state.vring(index.into())?.error = error;
        self.update(&mut state, index.into())
    }

    fn get_protocol_features(&self) -> Result<VhostUserProtocolFeatures> {
        Ok(DevicePolicy::protocol_features())
    }

    fn set_protocol_features(&self, features: u64) -> Result<()> {
        let mut state = self.state();
        let unknown = features & !DevicePolicy::protocol_features().bits();
        if unknown != 0 {
            return state.refuse(format!(
                "protocol features {unknown:#x} were accepted but not offered"
            ));
        }
        state.protocol = features;
        Ok(())
    }

    fn get_queue_num(&self) -> Result<u64> {
        // QEMU compares queue pairs, cloud-hypervisor vrings: enough for both. Queues beyond the
        // port's own limit are refused, with the remedy, when they are set up.
        Ok(u64::from(self.policy.queue_pairs) * 2)
    }

    fn set_vring_enable(&self, index: u32, enable: bool) -> Result<()> {
        self.enable(index, enable.into())
    }

    fn get_config(&self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // The answer has exactly the length asked for: cloud-hypervisor insists. What lies beyond
        // the structure reads as zero.
        let space = self.policy.config_space();
        let (offset, size) = (offset as usize, size as usize);
        let mut bytes = vec![0; size];
        if let Some(tail) = space.get(offset..) {
            let n = tail.len().min(size).min(CONFIG_SPACE_SIZE);
            bytes[..n].copy_from_slice(&tail[..n]);
        }
        Ok(bytes)
    }

    fn set_config(&self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.state()
            .refuse("the configuration space of a network device is read-only".to_owned())
    }

    fn set_gpu_socket(&self, _gpu_backend: GpuBackend) -> Result<()> {
        self.state()
            .refuse("this is a network device, not a GPU".to_owned())
    }

    fn get_shared_object(&self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation(
            "shared objects were not negotiated",
        ))
    }

    fn get_inflight_fd(&self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("INFLIGHT_SHMFD was not negotiated"))
    }

    fn set_inflight_fd(&self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("INFLIGHT_SHMFD was not negotiated"))
    }

    fn get_max_mem_slots(&self) -> Result<u64> {
        Ok(MAX_SLOTS as u64)
    }

    fn add_mem_region(
        &self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let mut state = self.state();
        let region = Region {
            guest_addr: region.guest_phys_addr,
            size: region.memory_size,
            user_addr: region.user_addr,
            offset: region.mmap_offset,
            file,
        };
        let name = region_name(&region);
        let memory = match &state.device.memory {
            Some(memory) => memory.with_added(region),
            None => GuestMemory::new(vec![region]),
        };
        match memory {
            Ok(memory) => self.set_memory(&mut state, memory)?,
            Err(error) => state.refuse(format!("{name}: {error}"))?,
        }
        Ok(None)
    }

    fn remove_mem_region(&self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let mut state = self.state();
        let Some(memory) = &state.device.memory else {
            return state.refuse("a memory region is removed before any was added".to_owned());
        };
        match memory.with_removed(region.guest_phys_addr, region.memory_size, region.user_addr) {
            Ok(memory) => self.set_memory(&mut state, memory),
            Err(error) => state.refuse(format!("{error}")),
        }
    }

    fn set_device_state_fd(
        &self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("DEVICE_STATE was not negotiated"))
    }

    fn check_device_state(&self) -> Result<()> {
        Err(Error::InvalidOperation("DEVICE_STATE was not negotiated"))
    }

    fn get_shmem_config(&self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("SHMEM was not negotiated"))
    }

    fn set_log_base(&self, log: &VhostUserLog, file: File) -> Result<()> {
        let mut state = self.state();
        match DirtyLog::new(file, log.mmap_offset, log.mmap_size) {
            Ok(log) => state.log_base = Some(Arc::new(log)),
            Err(error) => {
                let (size, offset) = (log.mmap_size, log.mmap_offset);
                return state.refuse(format!("dirty log of {size} bytes at {offset}: {error}"));
            }
        }
        state.set_log();
        self.update_all(&mut state)
    }
}
