//! Tags in the model: §3.

use super::Model;
use crate::relay::VlanConfig;
use crate::stats::DropReason;

const TAG_TYPES: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];

/// A classified frame, without the tag it was classified by.
#[derive(Debug)]
pub(super) struct Classified {
    pub vid: u16,
    pub priority: u16,
    pub bytes: Vec<u8>,
}

pub(super) fn type_at(bytes: &[u8], offset: usize) -> u16 {
    match bytes.get(offset..offset + 2) {
        Some(two) => u16::from_be_bytes([two[0], two[1]]),
        None => 0,
    }
}

fn with_tag(bytes: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
    [&bytes[..12], &tag[..], &bytes[12..]].concat()
}

impl Model {
    /// §3, the column "ingress".
    pub(super) fn classify(&self, port: usize, bytes: &[u8]) -> Result<Classified, DropReason> {
        let config = &self.ports[port];
        let payload_of = |vid: u16| Classified {
            vid,
            priority: u16::from(config.default_pcp) << 13,
            bytes: bytes.to_vec(),
        };
        if self.is_flat() {
            return Ok(payload_of(0));
        }
        let untagged_vid = match &config.vlan {
            VlanConfig::Qinq(s) => {
                self.note("into an S-tag");
                return Ok(payload_of(s.get()));
            }
            VlanConfig::Access(vid) => Some(vid.get()),
            VlanConfig::Trunk { native, .. } => native.map(crate::frame::ethernet::Vid::get),
            VlanConfig::Flat | VlanConfig::Translate(_) => None,
        };
        let tpid = type_at(bytes, 12);
        if tpid == 0x893f {
            return Err(DropReason::Etag);
        }
        if !TAG_TYPES.contains(&tpid) {
            return untagged_vid.map(payload_of).ok_or(DropReason::NoNative);
        }
        if bytes.len() < 18 {
            return Err(DropReason::Runt);
        }
        let tci = type_at(bytes, 14);
        let outside = tci & 0xfff;
        let inside = match &config.vlan {
            VlanConfig::Translate(pairs) => pairs
                .iter()
                .find(|(external, _)| external.get() == outside)
                .map_or(0, |(_, internal)| internal.get()),
            _ => outside,
        };
        let ours = tpid == 0x8100 || tpid == 0x88a8 && self.is_service(inside);
        if !ours {
            let payload = untagged_vid.filter(|_| matches!(config.vlan, VlanConfig::Trunk { .. }));
            return payload.map(payload_of).ok_or(DropReason::ForeignTpid);
        }
        let vid = match (outside, &config.vlan) {
            (4095, _) => return Err(DropReason::ReservedVid),
            (0, _) => untagged_vid.ok_or(DropReason::NoNative)?,
            (_, VlanConfig::Access(_)) => return Err(DropReason::TagOnAccess),
            (_, VlanConfig::Translate(_)) if inside == 0 => return Err(DropReason::Untranslated),
            _ if !self.is_member(port, inside) => return Err(DropReason::NotMember),
            _ if self.is_service(inside) != (tpid == 0x88a8) => return Err(DropReason::NotMember),
            _ => inside,
        };
        if inside != outside {
            self.note("translated at ingress");
        }
        Ok(Classified {
            vid,
            priority: tci & 0xf000,
            bytes: [&bytes[..12], &bytes[16..]].concat(),
        })
    }

    /// §3, the column "egress", with the hopping guard and the MTU. `arrived` is the length of the
    /// frame as it arrived, tags and all. With a refusal comes the length that was refused.
    pub(super) fn egress(
        &self,
        port: usize,
        frame: &Classified,
        arrived: usize,
        segment: Option<u32>,
    ) -> Result<Vec<u8>, (DropReason, usize)> {
        let config = &self.ports[port];
        let bytes = if self.is_flat() {
            frame.bytes.clone()
        } else {
            let tag = match &config.vlan {
                VlanConfig::Access(_) | VlanConfig::Qinq(_) => None,
                VlanConfig::Trunk { native, .. } => (native.map(crate::frame::ethernet::Vid::get)
                    != Some(frame.vid))
                .then_some(frame.vid),
                VlanConfig::Flat => Some(frame.vid),
                VlanConfig::Translate(pairs) => pairs
                    .iter()
                    .find(|(_, internal)| internal.get() == frame.vid)
                    .map(|(external, _)| external.get()),
            };
            if let Some(vid) = tag {
                let service = self.is_service(frame.vid);
                if service {
                    self.note("out with an S-tag");
                }
                if vid != frame.vid {
                    self.note("translated at egress");
                }
                let tpid = if service { 0x88a8 } else { 0x8100 };
                with_tag(&frame.bytes, tpid, frame.priority | vid)
            } else {
                let shows_tag = [0x8100, 0x88a8].contains(&type_at(&frame.bytes, 12));
                if shows_tag && !matches!(config.vlan, VlanConfig::Qinq(_)) {
                    return Err((DropReason::HoppingGuard, frame.bytes.len()));
                }
                frame.bytes.clone()
            }
        };
        let mut tags = 0;
        while tags < 2
            && TAG_TYPES.contains(&type_at(&bytes, 12 + 4 * tags))
            && bytes.len() >= 18 + 4 * tags
        {
            tags += 1;
        }
        let Some(mtu) = config.mtu else {
            return Ok(bytes);
        };
        let most = usize::from(mtu) + 14 + 4 * tags;
        // Each segment gets the tags that the frame gets.
        let longest = match segment {
            Some(segment) => segment as usize + bytes.len() - arrived,
            None => bytes.len(),
        };
        if longest > most {
            return Err((DropReason::Oversize, longest));
        }
        if bytes.len() > most {
            self.note("too long, but not its segments");
        }
        Ok(bytes)
    }
}
