//! Links to the outside with real devices, in networks that each test makes for itself
//! (docs/uplinks.md). Without `CAP_SYS_ADMIN` these tests say that they were skipped.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod bond;
mod changes;
mod floods;
mod found;
mod gone;
mod handed;
mod kernel;
mod matrix;
mod mistakes;
mod offloads;
mod queues;
mod straight;

use std::collections::BTreeMap;
use std::fmt::Write;

use support::net::relay_named;
use support::{Evb, Guest, Net, eventually};

/// A daemon's configuration with a control socket, one relay `r`, local ports, and these lines.
fn config(ports: &[(&str, &str)], more: &str) -> String {
    let mut text = "[daemon]\ncontrol = \"{dir}/control.sock\"\n".to_owned();
    text += &relay_named("r", "", ports);
    writeln!(text, "\n{more}").unwrap();
    text
}

/// The uplink `up` of the relay `r`, with these lines.
fn uplink(lines: &str) -> String {
    format!("[[uplink]]\nname = \"up\"\nrelay = \"r\"\n{lines}\n")
}

/// Starts a daemon with guests 1, 2, … at the sockets of its configuration, and waits until `ports` run.
fn start(config: &str, ports: &[&str]) -> Net {
    let net = Net::start(config);
    for port in ports {
        expect_state(&net.evb, port, "running");
    }
    net
}

/// A port as the status has it.
fn port_status(evb: &Evb, port: &str) -> serde_json::Value {
    let status = evb.status();
    let ports = status["ports"].as_array().unwrap();
    let found = ports.iter().find(|p| p["name"] == port);
    let found = found.unwrap_or_else(|| panic!("no port {port} in {status}"));
    found.clone()
}

/// The state of a port, such as `running`.
fn state(evb: &Evb, port: &str) -> String {
    let status = port_status(evb, port);
    status["state"].as_str().unwrap().to_owned()
}

/// What a port has dropped, by reason; reasons that never occurred are left out.
fn drops(evb: &Evb, port: &str) -> BTreeMap<String, u64> {
    let status = port_status(evb, port);
    let drops = status["counters"]["drops"].as_object().unwrap();
    let count = |count: &serde_json::Value| count.as_u64().unwrap();
    drops.iter().map(|(k, v)| (k.clone(), count(v))).collect()
}

fn expect_state(evb: &Evb, port: &str, wanted: &str) {
    eventually(&format!("{port}: {wanted}"), || {
        (state(evb, port) == wanted).then_some(())
    });
}

/// The links of a port as the status has them.
fn links(evb: &Evb, port: &str) -> Vec<serde_json::Value> {
    let status = port_status(evb, port);
    status["links"].as_array().unwrap().clone()
}

/// Whether a test's station has sent the frame, of itself: the kernel says things, too.
fn is_station(frame: &[u8]) -> bool {
    frame[6..9] == [0x52, 0x54, 0] && !support::net::is_rarp(frame)
}

/// What a station has sent to a guest.
fn arrived(guest: &mut Guest) -> Vec<u8> {
    loop {
        let frame = guest.recv(support::LIMIT).expect("nothing arrived").bytes;
        if is_station(&frame) {
            return frame;
        }
    }
}
