//! `sriov = { … }`: a virtual function of a NIC.

use toml::Spanned;

use super::Claims;
use super::words::{Faults, choice, device, flag, number, place, station};
use crate::config::file::SriovTable;
use crate::config::model::{Sriov, Via};
use crate::config::report::Fault;
use crate::frame::mac::Mac;
use crate::uplink::sriov::FunctionSettings;

/// Virtual functions of one NIC, as sysfs counts them.
const VF_MAX: i64 = 65_535;

/// The virtual function of an uplink.
pub fn sriov(
    word: &Spanned<SriovTable>,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<Sriov> {
    let table = word.get_ref();
    let options = [
        ("macvtap", Via::Macvtap),
        ("af_packet", Via::AfPacket),
        ("af_xdp", Via::AfXdp),
    ];
    let via = choice(&table.via, "via", &options, faults).unwrap_or(Via::Macvtap);
    let pf = device(&table.pf, "pf", &word.span(), faults);
    let vf: Option<u16> = number(&table.vf, "vf", 0..=VF_MAX, faults);
    if table.vf.is_none() {
        faults.push(
            Fault::at(word.span(), "`vf` is missing")
                .help("name the virtual function by its number: `vf = 3`"),
        );
    }
    let create: Option<u16> = number(&table.create, "create", 1..=VF_MAX, faults);
    if let (Some(create), Some(vf), Some(at)) = (create, vf, place(&table.create))
        && create <= vf
    {
        let needed = u32::from(vf) + 1;
        let mut fault = Fault::at(at, format!("{create} virtual functions have no VF {vf}"));
        if let Some(at) = place(&table.vf) {
            fault = fault.with(at, "they are counted from 0");
        }
        faults.push(fault.help(format!("write `create = {needed}` or more")));
    }
    let mac = table
        .mac
        .as_ref()
        .and_then(|word| station(word.get_ref(), word.span(), faults));
    let settings = FunctionSettings {
        mac: mac.map(Mac::octets),
        vlan: number(&table.vlan, "vlan", 0..=4094, faults),
        spoofchk: flag(&table.spoofchk),
        trust: flag(&table.trust),
        rate: number(&table.rate, "rate", 0..=i64::from(u32::MAX), faults),
    };
    let (pf, vf) = pf.zip(vf)?;
    claims.device(&format!("{pf} vf {vf}"), &word.span(), true, faults);
    Some(Sriov {
        pf,
        vf,
        via,
        create,
        settings,
    })
}
