//! The order in which the two known front ends say things, from the first message to running rings.

use std::os::fd::AsRawFd;

use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures as Protocol};

use super::wire::{FrontEndError, NEED_REPLY};
use super::{FrontEnd, PROTOCOL_FEATURES, RingSetup, identity};
use crate::virtqueue::driver::DriverMemory;

/// Whose order is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// QEMU: one handshake per queue pair, rings as NUM, BASE, ADDR, KICK, CALL, acknowledgements only
    /// where they matter.
    #[default]
    Qemu,
    /// cloud-hypervisor: rings as NUM, ADDR, BASE, CALL, KICK, all enabled at the end, and every
    /// message acknowledged.
    CloudHypervisor,
}

impl FrontEnd {
    /// All that a front end asks before the guest's driver is there.
    pub fn negotiate(&mut self) -> Result<(), FrontEndError> {
        match self.options.order {
            Order::Qemu => {
                for pair in 0..self.options.queue_pairs.max(1) {
                    self.negotiate_like_qemu(pair)?;
                }
                Ok(())
            }
            Order::CloudHypervisor => {
                self.set_owner()?;
                self.get_features()?;
                self.negotiate_protocol()?;
                if self.has_protocol(Protocol::MQ) {
                    self.get_queue_num()?;
                }
                self.ack_everything = self.has_protocol(Protocol::REPLY_ACK);
                Ok(())
            }
        }
    }

    fn negotiate_like_qemu(&mut self, pair: u16) -> Result<(), FrontEndError> {
        // Requests about the whole device go out for the first pair only.
        let first = pair == 0;
        self.get_features()?;
        self.negotiate_protocol()?;
        if first && self.has_protocol(Protocol::MQ) {
            self.get_queue_num()?;
        }
        if first && self.has_protocol(Protocol::CONFIGURE_MEM_SLOTS) {
            self.get_max_mem_slots()?;
        }
        if first {
            self.set_owner()?;
        }
        self.get_features()?;
        for ring in 2 * u32::from(pair)..2 * u32::from(pair) + 2 {
            // Until the guest's driver is there, calls go to an eventfd that nobody reads.
            let masked = self.masked.as_raw_fd();
            self.set_vring_fd(FrontendReq::SET_VRING_CALL, ring, Some(masked))?;
            self.set_vring_fd(FrontendReq::SET_VRING_ERR, ring, Some(masked))?;
        }
        Ok(())
    }

    fn negotiate_protocol(&mut self) -> Result<(), FrontEndError> {
        if self.offered & PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        if self.options.resumed {
            self.protocol = self.options.protocol_features;
        } else {
            self.get_protocol_features()?;
        }
        self.set_protocol_features(self.protocol)
    }

    /// What follows when the guest's driver is ready: features, memory, rings, in that order.
    pub fn start(
        &mut self,
        memory: &DriverMemory,
        rings: &[RingSetup<'_>],
    ) -> Result<(), FrontEndError> {
        match self.options.order {
            Order::Qemu => self.start_like_qemu(memory, rings),
            Order::CloudHypervisor => {
                self.set_features(self.features)?;
                self.set_mem_table(memory)?;
                for (i, ring) in (0..).zip(rings) {
                    self.set_vring_num(i, ring.layout.size.into())?;
                    self.set_vring_addr(i, memory, ring)?;
                    self.set_vring_base(i, ring.base)?;
                    if let Some(call) = ring.call {
                        self.set_vring_fd(FrontendReq::SET_VRING_CALL, i, Some(call.as_raw_fd()))?;
                    }
                    self.set_vring_fd(FrontendReq::SET_VRING_KICK, i, Some(ring.kick.as_raw_fd()))?;
                }
                for (i, _) in (0..).zip(rings) {
                    self.enable(i, true)?;
                }
                Ok(())
            }
        }
    }

    fn start_like_qemu(
        &mut self,
        memory: &DriverMemory,
        rings: &[RingSetup<'_>],
    ) -> Result<(), FrontEndError> {
        let can_enable = self.offered & PROTOCOL_FEATURES != 0;
        let indexed: Vec<_> = (0..).zip(rings).collect();
        // The device's reset when the machine starts attaches the pairs before the driver is there.
        if can_enable {
            for &(i, _) in &indexed {
                self.enable(i, i < 2)?;
            }
        }
        for pair in indexed.chunks(2) {
            if can_enable {
                for &(i, _) in pair {
                    self.enable(i, true)?;
                }
            }
            self.set_features(self.features)?;
            if pair[0].0 == 0 {
                if let Some(mtu) = self
                    .options
                    .mtu
                    .filter(|_| self.has_protocol(Protocol::MTU))
                {
                    self.set_mtu(mtu)?;
                }
                if self.has_protocol(Protocol::CONFIGURE_MEM_SLOTS) {
                    for region in memory.regions() {
                        if !self.known.contains(&identity(region)) {
                            self.add_region(region)?;
                        }
                    }
                } else {
                    self.set_mem_table(memory)?;
                }
            }
            for &(i, ring) in pair {
                self.set_vring_num(i, ring.layout.size.into())?;
                self.set_vring_base(i, ring.base)?;
                self.set_vring_addr(i, memory, ring)?;
                self.set_vring_fd(FrontendReq::SET_VRING_KICK, i, Some(ring.kick.as_raw_fd()))?;
            }
            for &(i, ring) in pair {
                let call = ring.call.map(AsRawFd::as_raw_fd);
                self.set_vring_fd(FrontendReq::SET_VRING_CALL, i, call)?;
            }
        }
        Ok(())
    }

    /// The flag that asks for an acknowledgement, where one is due: always for cloud-hypervisor, and
    /// for what changes memory or logging for QEMU.
    pub(super) fn ack_flag(&self, matters: bool) -> u32 {
        let wanted = self.ack_everything || matters && self.has_protocol(Protocol::REPLY_ACK);
        if wanted { NEED_REPLY } else { 0 }
    }
}
