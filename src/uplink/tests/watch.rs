//! News of devices.

use super::*;
use crate::uplink::netlink::{Change, State, Watch};

/// Waits for news of a device of which `wanted` is true.
async fn until(watch: &mut Watch, ifindex: u32, wanted: Option<State>) {
    let heard = async {
        loop {
            let change = watch.next().await.unwrap();
            if change
                == (Change {
                    ifindex,
                    now: wanted,
                })
            {
                return;
            }
        }
    };
    let patience = Duration::from_secs(20);
    let in_time = tokio::time::timeout(patience, heard).await.is_ok();
    assert!(in_time, "{ifindex} never became {wanted:?}");
}

fn index(name: &str) -> u32 {
    let path = format!("/sys/class/net/{name}/ifindex");
    std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn run(test: impl AsyncFnOnce() + Send + 'static) {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
}

const UP: Option<State> = Some(State {
    up: true,
    mtu: 1500,
});
const DOWN: Option<State> = Some(State {
    up: false,
    mtu: 1500,
});

#[test]
fn carrier_mtu_and_removal_are_told() {
    run(async || {
        veth("va", "vb");
        let va = index("va");
        let mut watch = Watch::new().unwrap();
        until(&mut watch, va, UP).await;
        ip("link set vb down");
        until(&mut watch, va, DOWN).await;
        ip("link set vb up");
        until(&mut watch, va, UP).await;
        ip("link set va mtu 9000");
        let large = Some(State {
            up: true,
            mtu: 9000,
        });
        until(&mut watch, va, large).await;
        ip("link add link va name m0 type macvtap mode bridge");
        let m0 = index("m0");
        ip("link set m0 up");
        until(&mut watch, m0, large).await;
        ip("link set vb down");
        let lost = Some(State {
            up: false,
            mtu: 9000,
        });
        until(&mut watch, m0, lost).await;
        ip("link del vb");
        until(&mut watch, m0, None).await;
        until(&mut watch, va, None).await;
        ip("tuntap add dev later mode tap");
        let later = index("later");
        until(&mut watch, later, DOWN).await;
    });
}

#[test]
fn a_device_that_leaves_a_bridge_is_not_gone() {
    run(async || {
        veth("va", "vb");
        let va = index("va");
        let mut watch = Watch::new().unwrap();
        until(&mut watch, va, UP).await;
        ip("link add br0 type bridge");
        ip("link set va master br0");
        ip("link set va nomaster");
        ip("link set va mtu 1400");
        loop {
            let change = watch.next().await.unwrap();
            if change.ifindex == va {
                assert!(change.now.is_some());
                if change.now
                    == Some(State {
                        up: true,
                        mtu: 1400,
                    })
                {
                    return;
                }
            }
        }
    });
}

#[test]
fn the_last_news_is_true_after_a_storm() {
    run(async || {
        veth("va", "vb");
        ip("tuntap add dev gone mode tap");
        let (va, gone) = (index("va"), index("gone"));
        let mut watch = Watch::new().unwrap();
        until(&mut watch, va, UP).await;
        until(&mut watch, gone, DOWN).await;
        // More than the socket holds, while nobody reads it.
        let storm: String = (0..4000)
            .map(|turn| format!("link set vb alias {}{turn}\n", "x".repeat(200)))
            .chain(["link set va mtu 1300\nlink del gone\n".to_owned()])
            .collect();
        let batch = std::env::temp_dir().join(format!("evb-storm-{}", std::process::id()));
        std::fs::write(&batch, storm).unwrap();
        ip(&format!("-batch {}", batch.display()));
        std::fs::remove_file(&batch).unwrap();
        let small = Some(State {
            up: true,
            mtu: 1300,
        });
        let (mut seen_small, mut seen_gone) = (false, false);
        while !(seen_small && seen_gone) {
            let change = tokio::time::timeout(Duration::from_secs(20), watch.next());
            let change = change.await.unwrap().unwrap();
            seen_small |= change
                == (Change {
                    ifindex: va,
                    now: small,
                });
            seen_gone |= change
                == (Change {
                    ifindex: gone,
                    now: None,
                });
        }
    });
}
