//! VLAN classification at ingress and tags at egress (§3).
//!
//! A relay without any VLAN key is *flat*: tags are payload and VID 0 stands for its one broadcast
//! domain. A VID is an S-VID where some port of the relay is `qinq` with it: its tags are 0x88A8
//! there, those of all other VIDs 0x8100, and a tag of the other kind is foreign.

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

/// The VLAN rules of one port, prepared for look-up.
#[derive(Debug)]
pub(super) enum PortVlan {
    Flat,
    Access(Vid),
    Trunk { vids: VidSet, native: Option<Vid> },
    Translate(Box<Translation>),
    Qinq(Vid),
}

/// Both directions of a translation by VID; 0 where there is none.
#[derive(Debug)]
pub(super) struct Translation {
    inward: [u16; 4096],
    outward: [u16; 4096],
}

impl PortVlan {
    /// Prepares the rules. `in_use` are the VIDs of an uplink without keys in a relay with some.
    pub(super) fn new(config: &VlanConfig, in_use: Option<&VidSet>) -> PortVlan {
        match config {
            VlanConfig::Flat => match in_use {
                None => PortVlan::Flat,
                Some(vids) => PortVlan::Trunk {
                    vids: vids.clone(),
                    native: None,
                },
            },
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

    /// Classifies a frame that arrives on the port.
    pub(super) fn classify(
        &self,
        header: &Header,
        default_pcp: u8,
        service: &VidSet,
    ) -> Result<Class, DropReason> {
        let pvid = match self {
            PortVlan::Flat => return Ok(Class::default()),
            // Any frame becomes payload, VID 4095 included.
            PortVlan::Qinq(vid) => return Ok(payload(*vid, default_pcp)),
            PortVlan::Access(vid) => Some(*vid),
            PortVlan::Trunk { native, .. } => *native,
            PortVlan::Translate(_) => None,
        };
        let Some(tag) = header.tag else {
            return match header.ethertype {
                TYPE_ETAG => Err(DropReason::Etag),
                cut_off if is_tpid(cut_off) => Err(DropReason::Runt),
                _ => pvid
                    .map(|vid| payload(vid, default_pcp))
                    .ok_or(DropReason::NoNative),
            };
        };
        if tag.tpid != TPID_C && !(tag.tpid == TPID_S && service.contains_raw(tag.vid_raw())) {
            return match (self, pvid) {
                (PortVlan::Trunk { .. }, Some(vid)) => Ok(payload(vid, default_pcp)),
                _ => Err(DropReason::ForeignTpid),
            };
        }
        let vid = match (self, tag.vid_raw()) {
            (_, 4095) => return Err(DropReason::ReservedVid),
            (_, 0) => pvid.ok_or(DropReason::NoNative)?.get(),
            (PortVlan::Trunk { vids, .. }, vid) if vids.contains_raw(vid) => vid,
            (PortVlan::Trunk { .. }, _) => return Err(DropReason::NotMember),
            (PortVlan::Translate(translation), vid) => match translation.inward[usize::from(vid)] {
                0 => return Err(DropReason::Untranslated),
                internal => internal,
            },
            _ => return Err(DropReason::TagOnAccess),
        };
        Ok(Class {
            vid,
            pcp: tag.pcp(),
            dei: tag.dei(),
            consumed: true,
        })
    }

    /// Decides the tag of a copy that leaves by the port.
    pub(super) fn egress(
        &self,
        class: &Class,
        header: &Header,
        service: &VidSet,
    ) -> Result<TagAction, DropReason> {
        let tpid = if service.contains_raw(class.vid) {
            TPID_S
        } else {
            TPID_C
        };
        let vid = match self {
            PortVlan::Flat => return Ok(TagAction::default()),
            PortVlan::Access(_) | PortVlan::Qinq(_) => None,
            PortVlan::Trunk { native, .. } => match native {
                Some(native) if native.get() == class.vid => None,
                _ => Some(class.vid),
            },
            PortVlan::Translate(translation) => {
                Some(translation.outward[usize::from(class.vid & 0xfff)])
            }
        };
        let Some(vid) = vid else {
            let inner = if class.consumed {
                header.ethertype
            } else {
                header.outer_type()
            };
            if !matches!(self, PortVlan::Qinq(_)) && (inner == TPID_C || inner == TPID_S) {
                return Err(DropReason::HoppingGuard);
            }
            return Ok(TagAction {
                pop: class.consumed,
                push: None,
            });
        };
        let vid = Vid::new(vid).ok_or(DropReason::NotMember)?;
        let tag = Tag::new(tpid, vid, class.pcp, class.dei);
        if class.consumed && header.tag == Some(tag) {
            return Ok(TagAction::default());
        }
        Ok(TagAction {
            pop: class.consumed,
            push: Some(tag),
        })
    }

    /// The internal VIDs the port is a member of; none where it is flat.
    pub(super) fn members(&self) -> VidSet {
        match self {
            PortVlan::Flat => VidSet::new(),
            PortVlan::Access(vid) | PortVlan::Qinq(vid) => std::iter::once(*vid).collect(),
            PortVlan::Trunk { vids, .. } => vids.clone(),
            PortVlan::Translate(translation) => translation
                .inward
                .iter()
                .filter_map(|vid| Vid::new(*vid))
                .collect(),
        }
    }
}

/// An untagged frame, or one whose tags are payload.
fn payload(vid: Vid, pcp: u8) -> Class {
    Class {
        vid: vid.get(),
        pcp,
        dei: false,
        consumed: false,
    }
}
