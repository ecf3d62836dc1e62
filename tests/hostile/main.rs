//! Front ends and guests that break the rules. Whatever they do, the process lives, the other ports go on,
//! nothing is leaked, and the log says which port did what.

mod messages;
mod packed;
mod rings;
#[path = "../support/mod.rs"]
mod support;

use evb::vhost_user::front_end::{FrontEnd, Options, Order};
use support::guest::{MODERN, connect};
use support::{BROADCAST, Evb, Guest, GuestOptions, LIMIT, eth, mac};

/// Two good guests on `p0` and `p1`, and `p2` for the villain.
struct Scene {
    evb: Evb,
    a: Guest,
    b: Guest,
    fds: usize,
    number: u32,
}

impl Scene {
    fn new() -> Self {
        let evb = Evb::bridge(3);
        let [a, b] = evb.guests();
        let fds = evb.fds();
        let mut scene = Self {
            evb,
            a,
            b,
            fds,
            number: 0,
        };
        scene.others_go_on();
        scene
    }

    fn others_go_on(&mut self) {
        for _ in 0..5 {
            self.number += 1;
            let frame = eth(mac(2), mac(1)).number(self.number).bytes();
            self.a.send(&frame);
            self.b.expect_frame(&frame);
            let frame = eth(mac(1), mac(2)).number(self.number).bytes();
            self.b.send(&frame);
            self.a.expect_frame(&frame);
        }
        self.evb.assert_alive();
    }

    /// Broadcasts that the villain must get too, and the other good guest swallows.
    fn broadcast(&mut self, count: u32) {
        for n in 0..count {
            let frame = broadcast_frame(n);
            self.a.send(&frame);
            self.b.expect_frame(&frame);
        }
    }

    fn front_end(&self) -> FrontEnd {
        let options = Options {
            features: MODERN,
            order: Order::CloudHypervisor,
            timeout: LIMIT,
            ..Options::default()
        };
        let mut front_end = connect(&self.evb.path("p2.sock"), &options);
        front_end.negotiate().unwrap();
        front_end.set_features(front_end.features()).unwrap();
        front_end
    }

    fn guest(&self, options: GuestOptions) -> Guest {
        self.evb.guest_with("p2", 3, options)
    }

    /// All is as before, and the port still serves a good guest.
    fn aftermath(mut self) {
        self.others_go_on();
        let mut good = self.evb.guest("p2", 3);
        let frame = eth(mac(1), mac(3)).bytes();
        good.send(&frame);
        self.a.expect_frame(&frame);
        let frame = eth(mac(3), mac(1)).bytes();
        self.a.send(&frame);
        good.expect_frame(&frame);
        drop(good);
        self.evb.expect_fds(self.fds);
        self.evb.stop();
    }
}

/// Frame `n` of [`Scene::broadcast`], 1500 bytes long.
fn broadcast_frame(n: u32) -> Vec<u8> {
    let mut frame = eth(BROADCAST, mac(1)).number(1_000_000 + n).unpadded();
    frame.resize(1500, 0);
    frame
}
