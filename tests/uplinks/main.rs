//! Links to the outside with real devices, in networks that each test makes for itself
//! (docs/uplinks.md). Without `CAP_SYS_ADMIN` these tests say that they were skipped.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod bond;
mod changes;
mod found;
mod handed;
mod kernel;
mod matrix;
mod mistakes;
mod queues;
mod straight;

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

/// The state of a port, such as `running`.
fn state(evb: &Evb, port: &str) -> String {
    let status = evb.status();
    let ports = status["ports"].as_array().unwrap();
    let found = ports.iter().find(|p| p["name"] == port);
    let found = found.unwrap_or_else(|| panic!("no port {port} in {status}"));
    found["state"].as_str().unwrap().to_owned()
}

fn expect_state(evb: &Evb, port: &str, wanted: &str) {
    eventually(&format!("{port}: {wanted}"), || {
        (state(evb, port) == wanted).then_some(())
    });
}

/// The links of a port as the status has them.
fn links(evb: &Evb, port: &str) -> Vec<serde_json::Value> {
    let status = evb.status();
    let ports = status["ports"].as_array().unwrap();
    let found = ports.iter().find(|p| p["name"] == port).unwrap();
    found["links"].as_array().unwrap().clone()
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
