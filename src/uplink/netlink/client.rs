//! Requests about devices, each answered before the next.
//!
//! Threads: [`with_client`] brings a runtime of its own and blocks, so it is not for threads that
//! have one already. It belongs to the process that opens devices.

use std::io;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoMacVtap, InfoTun, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage, MacVtapMode,
};
use rtnetlink::{Handle, LinkMacVtap, LinkMessageBuilder, LinkUnspec};

use crate::uplink::address::stable;
use crate::uplink::error::LinkError;
use crate::uplink::spec::{Changed, MacvtapMode, MacvtapSpec};

/// No request takes long; one whose answer cannot be understood would wait for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the kernel.
pub struct Client {
    pub(super) handle: Handle,
}

/// Runs `work` with a connection to the kernel, in the network namespace of the calling thread.
pub fn with_client<T>(
    work: impl AsyncFnOnce(&Client) -> Result<T, LinkError>,
) -> Result<T, LinkError> {
    let failed = |error: io::Error| LinkError::admin("talking to the kernel by netlink", &error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        tokio::spawn(connection);
        let client = Client { handle };
        let answer = tokio::time::timeout(PATIENCE, work(&client)).await;
        answer.unwrap_or_else(|_| Err(failed(io::ErrorKind::TimedOut.into())))
    })
}

/// What the kernel says of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// Its driver, for devices that are made by request.
    pub kind: Option<String>,
    /// The bus on which it is; none for one that is software, and before Linux 5.14.
    pub bus: Option<String>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it carries Ethernet frames.
    pub ethernet: bool,
    /// What it was told to receive beyond what is its own.
    pub reception: Reception,
    /// Its MTU.
    pub mtu: u32,
    /// Its address.
    pub mac: [u8; 6],
    /// The number of the device below; for a pair, that of the other one.
    pub lower: Option<u32>,
    /// That one is in another network namespace.
    pub lower_elsewhere: bool,
    /// The number of the bridge, bond or other device that it is a port of.
    pub master: Option<u32>,
    /// How a MACVTAP device shares the device below.
    pub macvtap: Option<MacvtapMode>,
    /// What is known of a TUN or TAP device.
    pub tun: Option<Tun>,
}

/// What a device was told to receive beyond what is its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reception {
    /// Frames for all groups.
    pub all_groups: bool,
    /// All frames.
    pub everything: bool,
}

/// What is known of a TUN or TAP device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tun {
    /// It carries Ethernet frames.
    pub tap: bool,
    /// It stays without a user.
    pub persistent: bool,
    /// It can have several queues.
    pub multi_queue: bool,
    /// How many of several queues are in use.
    pub queues: u32,
}

impl Device {
    /// Its MTU, as far as the length of an IP packet goes.
    pub fn mtu(&self) -> u16 {
        u16::try_from(self.mtu).unwrap_or(u16::MAX)
    }

    /// Whether it says that it is on the device with a number, as the other one of a pair does, too.
    pub(super) fn is_made_on(&self, ifindex: u32) -> bool {
        self.lower == Some(ifindex) && !self.lower_elsewhere
    }

    fn from_message(message: LinkMessage) -> Self {
        let mut device = Self {
            ifindex: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            reception: Reception {
                all_groups: message.header.flags.contains(LinkFlags::Allmulti),
                everything: message.header.flags.contains(LinkFlags::Promisc),
            },
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                LinkAttribute::Controller(master) => device.master = Some(master),
                LinkAttribute::Link(lower) => device.lower = Some(lower),
                LinkAttribute::LinkNetNsId(_) => device.lower_elsewhere = true,
                LinkAttribute::Address(address) => {
                    device.mac = address.try_into().unwrap_or_default();
                }
                LinkAttribute::ParentDevBusName(bus) => device.bus = Some(bus),
                LinkAttribute::LinkInfo(infos) => device.take_info(infos),
                _ => {}
            }
        }
        device
    }

    fn take_info(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
                LinkInfo::Data(InfoData::MacVtap(data)) => {
                    self.macvtap = data.iter().find_map(|item| match item {
                        InfoMacVtap::Mode(mode) => macvtap_mode(*mode),
                        _ => None,
                    });
                }
                LinkInfo::Data(InfoData::Tun(data)) => self.tun = Some(Tun::from_data(&data)),
                _ => {}
            }
        }
    }
}

impl Tun {
    /// `IFLA_TUN_*` of `linux/if_link.h`.
    fn from_data(data: &[InfoTun]) -> Self {
        const TYPE: u16 = 3;
        const PERSIST: u16 = 6;
        const MULTI_QUEUE: u16 = 7;
        const NUM_QUEUES: u16 = 8;
        const TYPE_TAP: u32 = 2;
        let mut tun = Self::default();
        for item in data {
            let mut bytes = [0; 4];
            let len = item.value_len();
            if len > bytes.len() {
                continue;
            }
            item.emit_value(&mut bytes[..len]);
            let value = match len {
                1 => bytes[0].into(),
                _ => u32::from_ne_bytes(bytes),
            };
            match item.kind() {
                TYPE => tun.tap = value == TYPE_TAP,
                PERSIST => tun.persistent = value != 0,
                MULTI_QUEUE => tun.multi_queue = value != 0,
                NUM_QUEUES => tun.queues = value,
                _ => {}
            }
        }
        tun
    }
}

fn macvtap_mode(mode: MacVtapMode) -> Option<MacvtapMode> {
    match mode {
        MacVtapMode::Passthrough => Some(MacvtapMode::Passthru),
        MacVtapMode::Bridge => Some(MacvtapMode::Bridge),
        MacVtapMode::Vepa => Some(MacvtapMode::Vepa),
        MacVtapMode::Private => Some(MacvtapMode::Private),
        _ => None,
    }
}

/// What is to become of a device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Its address.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: Option<u16>,
    /// Frames of all groups.
    pub all_multicast: bool,
    /// No IPv6 address comes by itself, with which the host would solicit and report on the wire.
    pub silent: bool,
    /// Switched on.
    pub up: bool,
}

impl Client {
    /// The device with a name; `None` if there is none.
    pub async fn find(&self, name: &str) -> Result<Option<Device>, LinkError> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.map(Device::from_message)),
            Err(error) => match errno(&error) {
                io_error if io_error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
                io_error => Err(LinkError::admin(format!("looking for {name}"), &io_error)),
            },
        }
    }

    /// The device with a name.
    pub async fn get(&self, name: &str) -> Result<Device, LinkError> {
        self.find(name).await?.ok_or_else(|| LinkError::Missing {
            device: name.to_owned(),
        })
    }

    /// Whether a VLAN device is made on a device.
    pub async fn has_vlans(&self, ifindex: u32) -> Result<bool, LinkError> {
        let above = self.above(ifindex).await?;
        Ok(above
            .iter()
            .any(|device| device.kind.as_deref() == Some("vlan")))
    }

    /// The largest MTU of the devices that are made on a device, as far as they keep it from having a smaller one; 0
    /// without any.
    pub async fn mtu_above(&self, ifindex: u32) -> Result<u16, LinkError> {
        let bound = ["macvlan", "macvtap", "vlan", "ipvlan", "ipvtap"];
        let mut above = self.above(ifindex).await?;
        above.retain(|device| {
            device
                .kind
                .as_deref()
                .is_some_and(|kind| bound.contains(&kind))
        });
        Ok(above.iter().map(Device::mtu).max().unwrap_or(0))
    }

    /// The devices that say that they are on a device, the other one of a pair among them.
    async fn above(&self, ifindex: u32) -> Result<Vec<Device>, LinkError> {
        let mut devices = self.all().await?;
        devices.retain(|device| device.is_made_on(ifindex));
        Ok(devices)
    }

    /// All devices of this network namespace.
    pub(super) async fn all(&self) -> Result<Vec<Device>, LinkError> {
        let all = self.handle.link().get().execute();
        let all: Vec<_> = all
            .try_collect()
            .await
            .map_err(|error| LinkError::admin("listing devices", &errno(&error)))?;
        Ok(all.into_iter().map(Device::from_message).collect())
    }

    /// Changes a device.
    pub async fn change(
        &self,
        ifindex: u32,
        name: &str,
        settings: Settings,
    ) -> Result<(), LinkError> {
        if settings.silent {
            self.silence(ifindex, name).await;
        }
        let mut message = LinkUnspec::new_with_index(ifindex);
        if let Some(mac) = settings.mac {
            message = message.address(mac.to_vec());
        }
        if let Some(mtu) = settings.mtu {
            message = message.mtu(mtu.into());
        }
        if settings.all_multicast {
            message = message.allmulticast(true);
        }
        if settings.up {
            message = message.up();
        }
        let changed = self.handle.link().change(message.build()).execute().await;
        changed.map_err(|error| LinkError::admin(format!("setting up {name}"), &errno(&error)))
    }

    /// Sets the MTU of a device; that the device is gone is no error.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u16) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu.into());
        let changed = self.handle.link().change(message.build()).execute().await;
        changed.or_else(|error| gone_is_done("setting the MTU", &errno(&error)))
    }

    /// Makes a device as it was; that the device is gone is no error.
    pub async fn put_back(&self, changed: &Changed) -> Result<(), LinkError> {
        let mut message = LinkUnspec::new_with_index(changed.ifindex);
        if let Some(mtu) = changed.mtu {
            message = message.mtu(mtu.into());
        }
        if changed.few_groups {
            message = message.allmulticast(false);
        }
        if changed.down {
            message = message.down();
        }
        let done = self.handle.link().change(message.build()).execute().await;
        done.or_else(|error| gone_is_done("making the device as it was", &errno(&error)))
    }

    /// Removes a device; that it is gone already is no error.
    pub async fn remove(&self, ifindex: u32) -> Result<(), LinkError> {
        let removed = self.handle.link().del(ifindex).execute().await;
        removed.or_else(|error| gone_is_done("removing the device", &errno(&error)))
    }

    /// Keeps IPv6 from making an address of its own. Where there is no IPv6 there is nothing to refuse.
    async fn silence(&self, ifindex: u32, name: &str) {
        let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_index(ifindex)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![silent]));
        if let Err(error) = self.handle.link().change(message.build()).execute().await {
            log::debug!("{name}: no word about IPv6 addresses: {error}");
        }
    }

    /// Makes a MACVTAP device that is switched off and that the host does not talk by.
    pub async fn add_macvtap(&self, spec: &MacvtapSpec, parent: u32) -> Result<Device, LinkError> {
        let mode = match spec.mode {
            MacvtapMode::Passthru => MacVtapMode::Passthrough,
            MacvtapMode::Bridge => MacVtapMode::Bridge,
            MacvtapMode::Vepa => MacVtapMode::Vepa,
            MacvtapMode::Private => MacVtapMode::Private,
        };
        let mut message: LinkMessageBuilder<LinkMacVtap> =
            LinkMacVtap::new(&spec.name, parent, mode);
        if spec.mode != MacvtapMode::Passthru {
            let mac = spec.mac.unwrap_or_else(|| stable(&spec.name));
            message = message.address(mac.to_vec());
        }
        let made = self.handle.link().add(message.build()).execute().await;
        made.map_err(|error| macvtap_refused(spec, &errno(&error)))?;
        let device = self.get(&spec.name).await?;
        self.silence(device.ifindex, &spec.name).await;
        Ok(device)
    }
}

fn macvtap_refused(spec: &MacvtapSpec, error: &io::Error) -> LinkError {
    let parent = spec.parent.clone();
    match error.raw_os_error() {
        Some(libc::EEXIST) => LinkError::NameTaken {
            device: spec.name.clone(),
            found: "another device".to_owned(),
        },
        // A parent in passthru mode, or with siblings where passthru is wanted, is EINVAL.
        Some(libc::EBUSY | libc::EINVAL) => LinkError::ParentTaken { parent },
        _ => LinkError::admin(format!("making a MACVTAP device on {parent}"), error),
    }
}

fn gone_is_done(call: &str, error: &io::Error) -> Result<(), LinkError> {
    match error.raw_os_error() {
        Some(libc::ENODEV) => Ok(()),
        _ => Err(LinkError::admin(call, error)),
    }
}

/// What the kernel answered.
pub(super) fn errno(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
