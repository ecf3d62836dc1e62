//! The front end and the driver of the tests themselves, against a back end that others wrote.

#[path = "support/hub.rs"]
mod hub;
mod support;

use evb::vhost_user::front_end::Order;
use evb::virtqueue::driver::Layout;
use hub::Hub;
use support::guest::{EVENT_IDX, INDIRECT, MODERN, VERSION_1};
use support::{BROADCAST, Guest, GuestOptions, eth, mac, silence};

fn options() -> GuestOptions {
    GuestOptions::order(Order::CloudHypervisor)
}

fn guests(hub: &Hub, options: &GuestOptions) -> [Guest; 3] {
    std::array::from_fn(|i| Guest::connect(&hub.path(i), i as u16 + 1, options.clone()))
}

#[test]
fn frames_cross_with_every_layout_and_feature_set() {
    for features in [
        MODERN,
        MODERN & !EVENT_IDX,
        MODERN & !INDIRECT,
        VERSION_1 | (MODERN & 1 << 30),
    ] {
        for layout in [Layout::Contiguous, Layout::HeaderApart] {
            let mut options = options().features(features);
            options.queue.layout = layout;
            options.queue.indirect = true;
            let hub = Hub::new(3);
            let [mut a, mut b, mut c] = guests(&hub, &options);
            for n in 0..300 {
                let frame = eth(BROADCAST, mac(1)).number(n).bytes();
                a.send(&frame);
                b.expect_frame(&frame);
                c.expect_frame(&frame);
            }
            drop((a, b, c));
            hub.join();
        }
    }
}

#[test]
fn bursts_keep_their_order() {
    let hub = Hub::new(3);
    let [mut a, mut b, _c] = guests(&hub, &options());
    let frames: Vec<_> = (0..100)
        .map(|n| eth(mac(2), mac(1)).number(n).bytes())
        .collect();
    a.send_burst(0, frames.iter().map(Vec::as_slice));
    for frame in &frames {
        b.expect_frame(frame);
    }
}

#[test]
fn silence_is_noticed_and_so_is_its_absence() {
    let hub = Hub::new(3);
    let [mut a, mut b, mut c] = guests(&hub, &options());
    silence(&mut a, &mut [&mut b, &mut c]);
    b.expect_silence(&mut c);
    a.send(&eth(mac(9), mac(1)).bytes());
    let noise = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.expect_silence(&mut a)));
    assert!(noise.is_err(), "a frame that arrived was not noticed");
    c.expect_frame(&eth(mac(9), mac(1)).bytes());
}

#[test]
fn a_guest_without_call_descriptors_polls() {
    let hub = Hub::new(2);
    let silent = GuestOptions {
        call: false,
        ..options()
    };
    let mut a = Guest::connect(&hub.path(0), 1, options());
    let mut b = Guest::connect(&hub.path(1), 2, silent);
    for n in 0..10 {
        let frame = eth(mac(2), mac(1)).number(n).bytes();
        a.send(&frame);
        b.expect_frame(&frame);
    }
}
