use super::*;
use serde_json::json;

#[test]
fn a_port_is_flat_json() {
    let port = PortStatus {
        name: "vm1".into(),
        relay: "blue".into(),
        role: PortRole::Local,
        mode: Some(PortMode::Vepa),
        state: PortState::Failed {
            reason: "bad ring".into(),
        },
        socket: Some("/run/evb/vm1.sock".into()),
        links: vec![],
        queues: 2,
        workers: vec![0, 1],
        features: vec!["MRG_RXBUF".into()],
        mtu: None,
        macs: vec![Mac::from_u64(1)],
        refused_mac: Some(Mac::from_u64(2)),
        load: None,
        counters: Counters {
            drops: [("runt".to_owned(), 3)].into(),
            ..Counters::default()
        },
    };
    let json = serde_json::to_value(&port).unwrap();
    assert_eq!(json["state"], "failed");
    assert_eq!(json["reason"], "bad ring");
    assert_eq!(json["mode"], "vepa");
    assert_eq!(json["macs"], json!(["00:00:00:00:00:01"]));
    assert_eq!(json["counters"]["drops"]["runt"], 3);
    assert_eq!(serde_json::from_value::<PortStatus>(json).unwrap(), port);
    let running = serde_json::to_value(PortState::Running).unwrap();
    assert_eq!(running, json!({"state": "running"}));
}

#[test]
fn counters_come_from_the_workers() {
    let mut totals = Totals::default();
    totals.drop_frames(DropReason::RingFull, 4);
    totals.tx_frames = 1;
    totals.rx_multicast = 2;
    totals.kicks = 3;
    let expected = Counters {
        tx_frames: 1,
        rx_multicast: 2,
        kicks: 3,
        drops: [("ring_full".to_owned(), 4)].into(),
        ..Counters::default()
    };
    assert_eq!(Counters::from(&totals), expected);
    // Each counter that the workers have has a field.
    let json = serde_json::to_value(&expected).unwrap();
    for (name, value) in totals.named() {
        assert_eq!(json[name], value, "{name}");
    }
}

#[test]
fn vlans_come_from_the_workers_and_older_daemons_have_none() {
    let totals = VlanTotals {
        in_frames: 1,
        in_bytes: 64,
        out_frames: 2,
        out_bytes: 120,
        drops: 3,
    };
    let json = serde_json::to_value(VlanStatus::new(10, &totals)).unwrap();
    let expected = json!({
        "vid": 10, "in_frames": 1, "in_bytes": 64, "out_frames": 2, "out_bytes": 120, "drops": 3,
    });
    assert_eq!(json, expected);
    assert_eq!(VlanStatus::new(0, &totals).vid, None);
    let older = json!({"name": "r", "ports": [], "fdb_entries": 0, "fdb_limit": 1});
    let older: RelayStatus = serde_json::from_value(older).unwrap();
    assert_eq!(older.vlans, []);
}

#[test]
fn an_address_in_no_vlan_has_null() {
    let entry = FdbEntry {
        relay: "blue".into(),
        vid: None,
        mac: Mac::from_u64(0x5254_0000_0001),
        port: "vm1".into(),
        kind: FdbKind::Registered,
        age_s: None,
    };
    let json = serde_json::to_value(&entry).unwrap();
    let expected = json!({
        "relay": "blue", "vid": null, "mac": "52:54:00:00:00:01", "port": "vm1",
        "kind": "registered", "age_s": null,
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<FdbEntry>(json).unwrap(), entry);
}

#[test]
fn filters_are_checked_when_they_are_read() {
    let read = |json| serde_json::from_value::<FdbFilter>(json);
    assert_eq!(read(json!({})).unwrap(), FdbFilter::default());
    let filter = read(json!({"vid": "10", "mac": "52:54:00:00:00:01", "port": "p"})).unwrap();
    assert_eq!(filter.vid, Vid::new(10));
    let pairs: Vec<_> = filter.pairs().collect();
    let expected = [("port", "p"), ("vid", "10"), ("mac", "52:54:00:00:00:01")];
    assert_eq!(
        pairs,
        expected.map(|(name, value)| (name, value.to_owned()))
    );
    for wrong in [
        json!({"vid": "0"}),
        json!({"vid": "4095"}),
        json!({"vid": "ten"}),
        json!({"mac": "52:54"}),
        json!({"realy": "blue"}),
    ] {
        assert!(read(wrong.clone()).is_err(), "{wrong}");
    }
}
