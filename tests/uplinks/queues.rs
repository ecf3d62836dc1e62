//! AF_XDP on devices with several receive queues.

use crate::support::netns::{in_namespace, ip};
use crate::support::{Guest, Net, Wire, eth, eventually, mac};
use crate::{arrived, config, expect_state, start, uplink};

/// The pair `va` and `vb`, with so many queues each.
fn wide_veth(queues: u32) {
    let wide = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add va {wide} type veth peer name vb {wide}"));
    for name in ["va", "vb"] {
        ip(&format!("link set {name} addrgenmode none up"));
    }
}

/// Frames of many flows, which the device spreads over its queues, all arrive at the guest.
fn all_flows_arrive(wire: &Wire, guest: &mut Guest) {
    for flow in 0..64 {
        let frame = eth(mac(1), mac(600)).udp([10, 0, 1, flow], [10, 0, 0, 2], b"flow");
        wire.send(&frame.bytes());
        assert_eq!(arrived(guest), frame.bytes(), "flow {flow}");
    }
}

fn queues(net: &Net) -> u64 {
    let status = net.evb.status();
    let ports = status["ports"].as_array().unwrap();
    let up = ports.iter().find(|port| port["name"] == "up").unwrap();
    up["queues"].as_u64().unwrap()
}

#[test]
fn every_receive_queue_has_a_socket_unless_told_otherwise() {
    in_namespace(|| {
        wide_veth(4);
        let text = config(&[("p", "")], &uplink("af_xdp = { dev = \"va\" }"));
        let mut net = start(&text, &["up"]);
        assert_eq!(queues(&net), 4);
        all_flows_arrive(&Wire::new("vb"), net.at("p"));
        // It comes back with more.
        ip("link delete va");
        wide_veth(6);
        eventually("more queues", || (queues(&net) == 6).then_some(()));
        expect_state(&net.evb, "up", "running");
        all_flows_arrive(&Wire::new("vb"), net.at("p"));
        // Fewer are for whoever asks for them.
        let text = config(
            &[("p", "")],
            &uplink("af_xdp = { dev = \"va\", queues = 1 }"),
        );
        let mark = net.evb.log_mark();
        net.reload(&text);
        net.evb
            .expect_log(mark, &["va has 6 receive queues", "leave `queues` out"]);
        net.evb.stop();
    });
}
