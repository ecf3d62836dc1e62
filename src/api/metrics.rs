//! The status in Prometheus' text format, version 0.0.4.
//!
//! Written by hand: the counters are there already as a plain snapshot, so that a registry would only
//! be a second copy of them.

use std::fmt::{Display, Write};
use std::time::Duration;

use crate::api_types::{Counters, PortState, PortStatus, Status, VlanStatus};
use crate::stats::DropReason;

/// What the text is, for the header field.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A counter of a port: its metric, what it counts, and where it is.
type PortCounter = (&'static str, &'static str, fn(&Counters) -> u64);

const PORT_COUNTERS: &[PortCounter] = &[
    ("evb_port_tx_frames_total", "Frames the port sent.", |c| {
        c.tx_frames
    }),
    ("evb_port_tx_bytes_total", "Bytes the port sent.", |c| {
        c.tx_bytes
    }),
    (
        "evb_port_tx_broadcast_total",
        "Broadcast frames the port sent.",
        |c| c.tx_broadcast,
    ),
    (
        "evb_port_tx_multicast_total",
        "Multicast frames the port sent.",
        |c| c.tx_multicast,
    ),
    (
        "evb_port_rx_frames_total",
        "Frames delivered to the port.",
        |c| c.rx_frames,
    ),
    (
        "evb_port_rx_bytes_total",
        "Bytes delivered to the port.",
        |c| c.rx_bytes,
    ),
    (
        "evb_port_rx_broadcast_total",
        "Broadcast frames delivered to the port.",
        |c| c.rx_broadcast,
    ),
    (
        "evb_port_rx_multicast_total",
        "Multicast frames delivered to the port.",
        |c| c.rx_multicast,
    ),
    (
        "evb_port_calls_total",
        "Notifications sent to the guest.",
        |c| c.calls,
    ),
    (
        "evb_port_kicks_total",
        "Notifications received from the guest.",
        |c| c.kicks,
    ),
    (
        "evb_port_unlearned_total",
        "Frames whose source could not be learned.",
        |c| c.unlearned,
    ),
];

/// A counter of a VLAN: its metric, what it counts, and where it is.
type VlanCounter = (&'static str, &'static str, fn(&VlanStatus) -> u64);

const VLAN_COUNTERS: &[VlanCounter] = &[
    (
        "evb_vlan_in_frames_total",
        "Frames that ports sent in the VLAN.",
        |v| v.in_frames,
    ),
    (
        "evb_vlan_in_bytes_total",
        "Bytes that ports sent in the VLAN.",
        |v| v.in_bytes,
    ),
    (
        "evb_vlan_out_frames_total",
        "Frames delivered to ports in the VLAN.",
        |v| v.out_frames,
    ),
    (
        "evb_vlan_out_bytes_total",
        "Bytes delivered to ports in the VLAN.",
        |v| v.out_bytes,
    ),
    (
        "evb_vlan_drops_total",
        "Frames and copies dropped in the VLAN.",
        |v| v.drops,
    ),
];

/// The whole page.
pub(super) fn text(status: &Status) -> String {
    let mut page = Page::default();
    page.head("evb_info", "gauge", "The running program.");
    page.line("evb_info", &[("version", &status.version)], 1);
    page.head("evb_uptime_seconds", "gauge", "Seconds since the start.");
    page.line("evb_uptime_seconds", &[], status.uptime_s);

    page.head(
        "evb_worker_queues",
        "gauge",
        "TX queues that a worker serves.",
    );
    for worker in &status.workers {
        page.line(
            "evb_worker_queues",
            &[("worker", &worker.id.to_string())],
            worker.queues,
        );
    }
    let name = "evb_worker_busy_seconds_total";
    page.head(name, "counter", "Time that a worker has spent on frames.");
    for worker in &status.workers {
        let busy = Duration::from_nanos(worker.busy_ns).as_secs_f64();
        page.line(name, &[("worker", &worker.id.to_string())], busy);
    }
    page.head("evb_fdb_entries", "gauge", "Entries in the FDB of a relay.");
    for relay in &status.relays {
        page.line(
            "evb_fdb_entries",
            &[("relay", &relay.name)],
            relay.fdb_entries,
        );
    }
    page.head(
        "evb_fdb_limit",
        "gauge",
        "Entries that the FDB of a relay may have.",
    );
    for relay in &status.relays {
        page.line("evb_fdb_limit", &[("relay", &relay.name)], relay.fdb_limit);
    }

    page.head("evb_port_up", "gauge", "Whether the port's rings run.");
    for port in &status.ports {
        page.line(
            "evb_port_up",
            &labels(port),
            u8::from(port.state == PortState::Running),
        );
    }
    for (name, help, value) in PORT_COUNTERS {
        page.head(name, "counter", help);
        for port in &status.ports {
            page.line(name, &labels(port), value(&port.counters));
        }
    }
    page.queues(status);
    page.drops(status);
    page.vlans(status);
    page.0
}

fn labels(port: &PortStatus) -> [(&'static str, &str); 2] {
    [("relay", &port.relay), ("port", &port.name)]
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.write(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            self.write(format_args!("{open}{label}=\"{}\"", Escaped(text)));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{close} {value}\n"));
    }

    /// Which worker serves which queue.
    fn queues(&mut self, status: &Status) {
        let name = "evb_queue_worker";
        self.head(name, "gauge", "Number of the worker that serves a queue.");
        for port in &status.ports {
            for (queue, worker) in port.workers.iter().enumerate() {
                let [relay, who] = labels(port);
                let queue = queue.to_string();
                self.line(name, &[relay, who, ("queue", &queue)], worker);
            }
        }
    }

    /// Drops by reason. A reason that occurred at any port has a line at each, so that rates start
    /// from zero and reasons that never occurred cost nothing.
    fn drops(&mut self, status: &Status) {
        let name = "evb_port_drops_total";
        let reasons = DropReason::ALL.iter().map(|reason| reason.name());
        self.head(name, "counter", "Frames dropped on account of the port.");
        for reason in reasons {
            let count = |port: &PortStatus| port.counters.drops.get(reason).copied().unwrap_or(0);
            if status.ports.iter().all(|port| count(port) == 0) {
                continue;
            }
            for port in &status.ports {
                let [relay, who] = labels(port);
                self.line(name, &[relay, who, ("reason", reason)], count(port));
            }
        }
    }

    /// VLANs in which something was counted: at most 4,095 of a relay. Frames without a VLAN have an
    /// empty label.
    fn vlans(&mut self, status: &Status) {
        for (name, help, value) in VLAN_COUNTERS {
            self.head(name, "counter", help);
            for relay in &status.relays {
                for vlan in &relay.vlans {
                    let vid = vlan.vid.map(|vid| vid.to_string()).unwrap_or_default();
                    let labels = [("relay", &relay.name[..]), ("vlan", &vid)];
                    self.line(name, &labels, value(vlan));
                }
            }
        }
    }

    fn write(&mut self, text: impl Display) {
        // Memory takes what it is given.
        let _ = write!(self.0, "{text}");
    }
}

/// The value of a label between its quotes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::{PortRole, RelayStatus, WorkerStatus};

    fn port(name: &str, drops: &[(&str, u64)]) -> PortStatus {
        PortStatus {
            name: name.into(),
            relay: "blue".into(),
            role: PortRole::Local,
            mode: None,
            state: PortState::Running,
            socket: None,
            links: vec![],
            queues: 2,
            workers: vec![0, 1],
            features: vec![],
            mtu: None,
            macs: vec![],
            refused_mac: None,
            load: None,
            counters: Counters {
                tx_frames: 7,
                drops: drops
                    .iter()
                    .map(|(reason, n)| ((*reason).to_owned(), *n))
                    .collect(),
                ..Counters::default()
            },
        }
    }

    #[test]
    fn each_series_has_one_head_and_its_lines() {
        let status = Status {
            version: "1".into(),
            pid: 1,
            uptime_s: 5,
            workers: vec![WorkerStatus {
                id: 0,
                cpu: None,
                queues: 2,
                busy_permille: 500,
                busy_ns: 1_500_000_000,
            }],
            relays: vec![RelayStatus {
                name: "blue".into(),
                ports: vec![],
                fdb_entries: 3,
                fdb_limit: 4,
                vlans: [None, Some(10)]
                    .map(|vid| VlanStatus {
                        vid,
                        out_bytes: 9,
                        ..VlanStatus::default()
                    })
                    .into(),
            }],
            ports: vec![port("a", &[("runt", 2)]), port("b\"\\\n", &[])],
        };
        let page = text(&status);
        for line in [
            "evb_info{version=\"1\"} 1",
            "evb_uptime_seconds 5",
            "evb_worker_queues{worker=\"0\"} 2",
            "evb_worker_busy_seconds_total{worker=\"0\"} 1.5",
            "evb_queue_worker{relay=\"blue\",port=\"a\",queue=\"1\"} 1",
            "evb_fdb_entries{relay=\"blue\"} 3",
            "evb_port_up{relay=\"blue\",port=\"a\"} 1",
            "evb_port_tx_frames_total{relay=\"blue\",port=\"b\\\"\\\\\\n\"} 7",
            "evb_port_drops_total{relay=\"blue\",port=\"a\",reason=\"runt\"} 2",
            "evb_vlan_in_frames_total{relay=\"blue\",vlan=\"10\"} 0",
            "evb_vlan_out_bytes_total{relay=\"blue\",vlan=\"10\"} 9",
            "evb_vlan_out_bytes_total{relay=\"blue\",vlan=\"\"} 9",
            "evb_port_drops_total{relay=\"blue\",port=\"b\\\"\\\\\\n\",reason=\"runt\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in:\n{page}");
        }
        assert!(!page.contains("reason=\"pause\""));
        let mut seen = std::collections::HashSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split(' ').next().unwrap();
                assert!(seen.insert(current), "{current} twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(rest.starts_with(current));
            } else {
                assert!(line.starts_with(current), "{line} under {current}");
            }
        }
    }
}
