//! The list of reasons for which a frame is dropped.

/// Generates the enum, its counter names and its documentation from one list.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $doc:literal;)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $doc] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their discriminants.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)*];

            /// The name of its counter.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What it means, in one sentence for the operator.
            pub const fn doc(self) -> &'static str {
                match self { $(DropReason::$variant => $doc,)* }
            }
        }
    };
}

drop_reasons! {
    // Frames that are not well formed.
    Runt "runt" "The frame is shorter than its Ethernet header or tag.";
    ZeroSource "zero_source" "The source address is all zeros.";
    GroupSource "group_source" "The source is a multicast or broadcast address.";
    // virtio-net header and offloads.
    BadHeader "bad_header" "The virtio-net header is cut off or has flags that were not negotiated.";
    BadChecksum "bad_checksum_offset" "The checksum to complete lies outside the frame.";
    BadGso "bad_gso" "The segmentation request is invalid: no size, unknown type, or header length beyond the frame.";
    GsoWithoutChecksum "gso_without_checksum" "A guest asked for segmentation without checksum offload.";
    GsoMismatch "gso_mismatch" "The segmentation request does not match the packet, or its headers lie too deep to tell.";
    UfoRefused "ufo_refused" "UDP fragmentation offload is not offered.";
    Unrepairable "unrepairable" "The frame does not allow the checksum or segmentation its receiver needs.";
    // Reserved addresses (802.1Q 8.6.3), each protocol by itself.
    Pause "pause" "A pause or other MAC control frame, which ends at its link.";
    Lldp "lldp" "LLDP, which ends at its link.";
    Ecp "ecp" "Edge control protocol, which ends at its link.";
    Cdcp "cdcp" "S-channel discovery, which ends at its link.";
    Lacp "lacp" "Link aggregation control, which ends at its link.";
    Reserved "reserved" "Another address reserved for the link, 01:80:c2:00:00:00 to 0f.";
    // VLAN classification.
    TagOnAccess "tag_on_access" "A tagged frame arrived on an access port.";
    NoNative "no_native" "An untagged frame arrived on a port without a native VLAN.";
    NotMember "not_member" "The port is not in the frame's VLAN.";
    Untranslated "untranslated" "The VID has no translation on this port.";
    ReservedVid "reserved_vid" "The VID is 4095.";
    ForeignTpid "foreign_tpid" "The outer tag is of a type that this port does not take.";
    Etag "etag" "The frame carries an 802.1BR E-tag.";
    // Addresses.
    Spoofed "spoofed" "The source is not an address of this pinned port.";
    AddressTaken "address_taken" "The source is registered or static on another port.";
    PortLimit "port_limit" "The port has as many learned addresses as it may.";
    RelayLimit "relay_limit" "The relay has as many addresses as it may.";
    MoveDamped "move_damped" "The source moves between ports too often.";
    NotLearned "not_learned" "Learning is off and the uplink would reflect an unlearned source.";
    // Forwarding.
    PortDown "port_down" "The port, or the receiver, is not running.";
    OwnAddress "own_address" "The frame is addressed to the port that sent it.";
    OwnSource "own_source" "A port's own frame came back from the uplink.";
    PairRule "pair_rule" "The modes of the two ports do not let them talk this way.";
    Reflected "reflected" "A reflection whose receivers have it already or may not have it.";
    UplinkTurn "uplink_turn" "The destination lies on the uplink that the frame came from.";
    Unknown "unknown" "The destination is unknown and no port takes unknown destinations.";
    NoUplink "no_uplink" "The frame must go by the uplink and there is none, or it is not in the VLAN, or down.";
    NoReceiver "no_receiver" "No other port may receive the frame.";
    TooManyHops "too_many_hops" "The frame crossed more patch links than a network without loops has.";
    // Egress.
    TooManyTags "too_many_tags" "Patch links have added more tags than evb carries.";
    Oversize "oversize" "The frame, or one of its segments, exceeds the MTU of the receiver.";
    HoppingGuard "hopping_guard" "Untagged on this port, the frame would show an inner tag.";
    RingFull "ring_full" "The receiver offered no buffers in time.";
    RxChain "rx_chain" "A receive buffer of the guest is unusable.";
    UplinkBusy "uplink_busy" "The uplink device took no more frames.";
    UplinkError "uplink_error" "The uplink device refused the frame.";
    // Ingress from a device.
    Missed "missed" "The kernel could not hand the frame over: evb was behind, or a virtio-net header cannot describe it.";
    // Ingress from a ring.
    BadChain "bad_chain" "A descriptor chain of the guest is malformed.";
    TooLong "too_long" "The frame is longer than any that evb forwards.";
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn the_list_is_indexed_by_discriminant_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(
                reason
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_')
            );
            assert!(reason.doc().ends_with('.'));
        }
    }
}
