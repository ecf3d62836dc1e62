//! What is asked of the kernel about virtual functions, and about the addresses of a device.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkVfInfo, VfInfo, VfInfoMac, VfInfoRate, VfInfoSpoofCheck,
    VfInfoTrust, VfInfoVlan,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::client::{Client, errno};
use crate::uplink::error::LinkError;
use crate::uplink::sriov::{FunctionState, Setting};

impl Client {
    /// What the driver of `pf` tells of its virtual function `vf`; `None` if it tells nothing.
    pub async fn function_state(
        &self,
        pf: &str,
        vf: u16,
    ) -> Result<Option<FunctionState>, LinkError> {
        let request = self.handle.link().get().match_name(pf);
        let mut found = request
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::Vf])
            .execute();
        let message = found.try_next().await.map_err(|error| {
            LinkError::admin(format!("asking for the functions of {pf}"), &errno(&error))
        })?;
        let lists = message
            .into_iter()
            .flat_map(|message| message.attributes)
            .filter_map(|attribute| match attribute {
                LinkAttribute::VfInfoList(functions) => Some(functions),
                _ => None,
            });
        Ok(lists
            .flatten()
            .find_map(|function| read(&function, vf.into())))
    }

    /// Has `pf` set something for its virtual function `vf`. The error is the driver's own.
    pub async fn set_function(&self, pf: &str, vf: u16, setting: Setting) -> io::Result<()> {
        let id = u32::from(vf);
        let info = match setting {
            Setting::Mac(mac) => VfInfo::Mac(VfInfoMac::new(id, &mac)),
            Setting::Vlan(vlan) => VfInfo::Vlan(VfInfoVlan::new(id, vlan.into(), 0)),
            Setting::Rate(rate) => VfInfo::Rate(VfInfoRate::new(id, 0, rate)),
            Setting::Trust(on) => VfInfo::Trust(VfInfoTrust::new(id, on)),
            Setting::Spoofchk(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(id, on)),
        };
        let message = LinkUnspec::new_with_name(pf)
            .append_extra_attribute(LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])]));
        let changed = self.handle.link().change(message.build()).execute().await;
        changed.map_err(|error| errno(&error))
    }

    /// Has a device receive frames for a further address; that it does already is no error.
    pub async fn add_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        let neighbours = self.handle.neighbours();
        let added = neighbours
            .add_bridge(ifindex, &mac)
            .state(NeighbourState::Permanent)
            .flags(NeighbourFlags::Own)
            .execute()
            .await;
        match added.map_err(|error| errno(&error)) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(LinkError::admin("adding an address of a station", &error))
            }
            _ => Ok(()),
        }
    }

    /// Takes such an address from a device; that it has gone is no error.
    pub async fn remove_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        let address = NeighbourAttribute::LinkLayerAddress(mac.to_vec());
        message.attributes.push(address);
        let removed = self.handle.neighbours().del(message).execute().await;
        match removed.map_err(|error| errno(&error)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                Err(LinkError::admin("removing an address of a station", &error))
            }
            _ => Ok(()),
        }
    }
}

/// What a list says of the function with a number; `None` where it is about another.
fn read(function: &LinkVfInfo, wanted: u32) -> Option<FunctionState> {
    let mut state = FunctionState::default();
    let mut found = false;
    for info in &function.0 {
        match info {
            VfInfo::Mac(mac) => {
                found = mac.vf_id == wanted;
                // Longer addresses are those of other networks than Ethernet.
                state.mac.copy_from_slice(&mac.mac[..6]);
            }
            // Some drivers put further bits above the VID.
            VfInfo::Vlan(vlan) => state.vlan = (vlan.vlan_id & 0xfff) as u16,
            VfInfo::Rate(rate) => state.rate = rate.max_tx_rate,
            VfInfo::Trust(trust) => state.trust = trust.enabled,
            VfInfo::SpoofCheck(check) => state.spoofchk = check.enabled,
            _ => {}
        }
    }
    found.then_some(state)
}
