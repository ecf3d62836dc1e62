//! VLAN classification at ingress and tags at egress (§3).
//!
//! A relay without any VLAN key is *flat*: tags are payload, VID 4095 included, and VID 0 stands
//! for its one broadcast domain. In the others, a VID is an S-VID where some port is `qinq` with
//! it: its tags are 0x88A8, those of all other VIDs 0x8100, and a tag of the other kind is foreign.

use super::config::VlanConfig;
use super::vid_set::VidSet;
use crate::frame::ethernet::{Header, TPID_C, TPID_S, TYPE_ETAG, Tag, TagAction, Vid, is_tpid};
use crate::stats::DropReason;

/// The VLAN a frame was classified to, and how it was tagged when it arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// The VID; 0 in a flat or passthrough relay.
    pub vid: u16,
    /// Priority code point.
    pub pcp: u8,
    /// Drop eligible indicator.
    pub dei: bool,
    /// Whether the outermost tag of the received frame was the one classified by; otherwise it is
    /// payload.
    pub consumed: bool,
}

/// The VIDs of a relay that is not flat.
#[derive(Debug)]
pub(super) struct RelayVids {
    /// Those that any port names.
    pub(super) in_use: VidSet,
    /// Those that are S-VIDs.
    pub(super) service: VidSet,
}

/// The VLAN rules of one port in a relay that is not flat, prepared for look-up.
#[derive(Debug)]
pub(super) enum PortVlan {
    /// Untagged in this VLAN.
    Access(Vid),
    /// Tagged in these, untagged in the native one, which is among them.
    Trunk { vids: VidSet, native: Option<Vid> },
    /// Tagged in every VID that another port names.
    AllInUse,
    /// Tagged with other VIDs than the relay's.
    Translate(Box<Translation>),
    /// Everything is payload of this S-VID.
    Qinq(Vid),
}

/// Both directions of a translation by VID; 0 where there is none.
#[derive(Debug)]
pub(super) struct Translation {
    inward: [u16; 4096],
    outward: [u16; 4096],
}

impl PortVlan {
    /// Prepares the rules.
    pub(super) fn new(config: &VlanConfig) -> PortVlan {
        match config {
            VlanConfig::Flat => PortVlan::AllInUse,
            VlanConfig::Access(vid) => PortVlan::Access(*vid),
            VlanConfig::Trunk { vids, native } => {
                let mut vids = vids.clone();
                vids.extend(*native);
                PortVlan::Trunk {
                    vids,
                    native: *native,
                }
            }
            VlanConfig::Translate(pairs) => {
                let mut translation = Box::new(Translation {
                    inward: [0; 4096],
                    outward: [0; 4096],
                });
                for (external, internal) in pairs {
                    translation.inward[usize::from(external.get())] = internal.get();
                    translation.outward[usize::from(internal.get())] = external.get();
                }
                PortVlan::Translate(translation)
            }
            VlanConfig::Qinq(vid) => PortVlan::Qinq(*vid),
        }
    }

    /// The VLAN of untagged frames.
    pub(super) fn pvid(&self) -> Option<Vid> {
        match self {
            PortVlan::Access(vid) | PortVlan::Qinq(vid) => Some(*vid),
            PortVlan::Trunk { native, .. } => *native,
            PortVlan::AllInUse | PortVlan::Translate(_) => None,
        }
    }

    /// The VLANs the port is a member of.
    pub(super) fn members(&self, in_use: &VidSet) -> VidSet {
        match self {
            PortVlan::Access(vid) | PortVlan::Qinq(vid) => std::iter::once(*vid).collect(),
            PortVlan::Trunk { vids, .. } => vids.clone(),
            PortVlan::AllInUse => in_use.clone(),
            PortVlan::Translate(translation) => {
                let internal = translation.inward.iter();
                internal.filter_map(|vid| Vid::new(*vid)).collect()
            }
        }
    }

    /// Classifies a frame that arrives on the port.
    pub(super) fn classify(
        &self,
        header: &Header,
        default_pcp: u8,
        vids: &RelayVids,
    ) -> Result<Class, DropReason> {
        let untagged = || match self.pvid() {
            Some(vid) => Ok(Class {
                vid: vid.get(),
                pcp: default_pcp & 7,
                dei: false,
                consumed: false,
            }),
            None => Err(DropReason::NoNative),
        };
        if matches!(self, PortVlan::Qinq(_)) {
            // Any frame becomes payload, VID 4095 included.
            return untagged();
        }
        let Some(tag) = header.tag else {
            return match header.ethertype {
                TYPE_ETAG => Err(DropReason::Etag),
                cut_off if is_tpid(cut_off) => Err(DropReason::Runt),
                _ => untagged(),
            };
        };
        let vid = tag.vid_raw();
        let foreign = match tag.tpid {
            TPID_C => false,
            TPID_S => !vids.service.contains_raw(match self {
                PortVlan::Translate(translation) => translation.inward[usize::from(vid)],
                _ => vid,
            }),
            _ => true,
        };
        if foreign {
            return match self {
                PortVlan::Trunk { native, .. } if native.is_some() => untagged(),
                _ => Err(DropReason::ForeignTpid),
            };
        }
        let vid = match vid {
            4095 => return Err(DropReason::ReservedVid),
            0 => self.pvid().ok_or(DropReason::NoNative)?.get(),
            vid => {
                let internal = self.internal(vid, vids)?;
                if vids.service.contains_raw(internal) != (tag.tpid == TPID_S) {
                    return Err(DropReason::NotMember);
                }
                internal
            }
        };
        Ok(Class {
            vid,
            pcp: tag.pcp(),
            dei: tag.dei(),
            consumed: true,
        })
    }

    /// The relay's VID for a VID on the wire.
    fn internal(&self, vid: u16, vids: &RelayVids) -> Result<u16, DropReason> {
        let member = match self {
            PortVlan::Access(_) | PortVlan::Qinq(_) => return Err(DropReason::TagOnAccess),
            PortVlan::Translate(translation) => {
                return match translation.inward[usize::from(vid & 0xfff)] {
                    0 => Err(DropReason::Untranslated),
                    internal => Ok(internal),
                };
            }
            PortVlan::Trunk { vids, .. } => vids.contains_raw(vid),
            PortVlan::AllInUse => vids.in_use.contains_raw(vid),
        };
        member.then_some(vid).ok_or(DropReason::NotMember)
    }

    /// Decides the tag of a copy that leaves by the port.
    pub(super) fn egress(
        &self,
        class: Class,
        header: &Header,
        vids: &RelayVids,
    ) -> Result<TagAction, DropReason> {
        let external = match self {
            PortVlan::Translate(translation) => {
                let external = translation.outward[usize::from(class.vid & 0xfff)];
                Some(Vid::new(external).ok_or(DropReason::NotMember)?)
            }
            _ if self.pvid().is_some_and(|pvid| pvid.get() == class.vid) => None,
            _ => Some(Vid::new(class.vid).ok_or(DropReason::NotMember)?),
        };
        let Some(vid) = external else {
            let inner = if class.consumed {
                header.ethertype
            } else {
                header.outer_type()
            };
            if matches!(inner, TPID_C | TPID_S) && !matches!(self, PortVlan::Qinq(_)) {
                return Err(DropReason::HoppingGuard);
            }
            return Ok(TagAction {
                pop: class.consumed,
                push: None,
            });
        };
        let tpid = if vids.service.contains_raw(class.vid) {
            TPID_S
        } else {
            TPID_C
        };
        let tag = Tag::new(tpid, vid, class.pcp, class.dei);
        if class.consumed && header.tag == Some(tag) {
            return Ok(TagAction::default());
        }
        Ok(TagAction {
            pop: class.consumed,
            push: Some(tag),
        })
    }
}
