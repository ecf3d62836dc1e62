//! Addresses that end at their link (§1, "Reserved addresses"; 802.1Q 8.6.3).

use crate::frame::ethernet::{Header, TYPE_ECP, TYPE_LLDP, TYPE_MAC_CONTROL, TYPE_SLOW};
use crate::frame::mac::Mac;
use crate::stats::DropReason;

/// The last octet of an address 01:80:c2:00:00:00 to 0f.
#[inline]
fn reserved_octet(mac: Mac) -> Option<u8> {
    let number = mac.to_u64();
    (number >> 4 == 0x0180_c200_0000 >> 4).then_some(number as u8)
}

/// Whether a frame is pause or another MAC control frame, which no relay passes on (802.3 31).
pub(super) fn is_mac_control(header: &Header) -> bool {
    header.outer_type() == TYPE_MAC_CONTROL || reserved_octet(header.dst) == Some(1)
}

/// Whether a frame is to a reserved address and `group_fwd_mask` lets it through; an error if it
/// ends here.
///
/// The mask lets through everything at an address, bit 1 excepted: whoever opens one wants what is
/// sent there.
pub(super) fn admit(header: &Header, group_fwd_mask: u16) -> Result<bool, DropReason> {
    if is_mac_control(header) {
        return Err(DropReason::Pause);
    }
    let Some(octet) = reserved_octet(header.dst) else {
        return Ok(false);
    };
    if group_fwd_mask >> octet & 1 != 0 {
        return Ok(true);
    }
    Err(match (octet, header.outer_type()) {
        (0x00 | 0x0e, TYPE_LLDP) => DropReason::Lldp,
        (0x00, TYPE_ECP) => DropReason::Ecp,
        (0x03, TYPE_LLDP) => DropReason::Cdcp,
        (0x02, TYPE_SLOW) => DropReason::Lacp,
        _ => DropReason::Reserved,
    })
}
