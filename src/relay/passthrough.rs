//! A passthrough relay (§3): one local port and one uplink, byte for byte.
//!
//! Nothing is looked at but pause frames, the source where the port is pinned, and whether a group
//! frame from the uplink is the VM's own. For the last, the addresses of the VM are kept in the
//! database under FID 0.

use super::Seconds;
use super::config::MacPolicy;
use super::forward::{Verdict, View};
use super::port::Slot;
use super::reserved;
use super::tables::Port;
use crate::frame::ethernet::Header;
use crate::frame::mac::Mac;
use crate::stats::DropReason;

impl View<'_> {
    /// Decides about a frame from either side.
    pub(super) fn pass_through(
        &self,
        local: Slot,
        from: Slot,
        port: &Port,
        header: &Header,
        now: Seconds,
    ) -> Result<Verdict, DropReason> {
        if reserved::is_mac_control(header) {
            return Err(DropReason::Pause);
        }
        if from == local {
            self.check_sender(local, port, header.src, now)?;
            return match self.relay.uplink {
                Some(uplink) if self.active.contains(uplink) => Ok(Verdict::One(uplink)),
                _ => Err(DropReason::NoUplink),
            };
        }
        if !self.active.contains(local) {
            return Err(DropReason::PortDown);
        }
        if header.dst.is_group() && self.is_own(local, header.src, now) {
            return Err(DropReason::OwnSource);
        }
        Ok(Verdict::One(local))
    }

    /// Checks the source where the port is pinned, and otherwise remembers it.
    fn check_sender(
        &self,
        local: Slot,
        port: &Port,
        src: Mac,
        now: Seconds,
    ) -> Result<(), DropReason> {
        match port.config.mac_policy {
            MacPolicy::Pinned => {
                self.admit_source(local, port, &self.relay.vlan(0), src, now, false)
            }
            MacPolicy::Learn(limit) | MacPolicy::Trusted { limit } => {
                if !src.is_zero() && !src.is_group() {
                    // At the limit the address is not remembered; it passes all the same.
                    let _ = self.relay.fdb.learn(0, src, local, limit, now);
                }
                Ok(())
            }
        }
    }

    /// Whether the VM has this address and does not want its own frames back.
    fn is_own(&self, local: Slot, src: Mac, now: Seconds) -> bool {
        let Some(port) = self.relay.port(local) else {
            return false;
        };
        !port.config.accept_own_src
            && (port.config.macs.contains(&src)
                || port.pin() == Some(src)
                || self.relay.fdb.lookup(0, src, now).is_some())
    }
}
