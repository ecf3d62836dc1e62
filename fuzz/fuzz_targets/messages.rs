//! Any bytes as what a vhost-user front end sends.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use evb::vhost_user::{Connection, DevicePolicy, PortHost, Update};
use evb::virtqueue::Positions;
use evb::worker::PortRings;
use libfuzzer_sys::fuzz_target;

/// A daemon whose workers have always let go.
struct Host;

impl PortHost for Host {
    fn set_rings(&self, _: PortRings) {}
    fn report(&self, _: Update) {}
    fn positions(&self) -> Arc<Positions> {
        Arc::new(Positions::in_process(4))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (mut front, back) = UnixStream::pair().unwrap();
    // What does not fit into the socket at once would wait for a reader.
    front.set_nonblocking(true).unwrap();
    let _ = front.write(bytes);
    let _ = front.shutdown(Shutdown::Write);
    let policy = DevicePolicy {
        queue_pairs: 2,
        mtu: Some(1500),
        standby: true,
    };
    let connection = Connection::new(back, "p", policy, Arc::new(Host)).unwrap();
    let _ = connection.run();
});
