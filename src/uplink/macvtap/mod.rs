//! MACVTAP devices: a link by way of another device, the parent.
//!
//! In passthru mode the parent's frames are all ours. In the others a device gets the frames for its
//! own address and for groups, so one guest can be behind it, with that address.

pub mod found;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Opened;
use super::error::LinkError;
use super::netlink::{Client, Device, Settings, with_client};
use super::spec::{Created, Facts, Kind, MacvtapSpec, Made};
use super::tap::set_up_queue;
use crate::sys::node::{self, Number};
use crate::sys::tun::{self, Attach};

/// Bytes that may wait for the parent, in each queue; the kernel's default is three large frames.
const SEND_BUFFER: i32 = 4 << 20;

/// Makes a MACVTAP device.
pub fn open(spec: &MacvtapSpec) -> Result<Opened, LinkError> {
    with_client(async |client| {
        let parent = client.get(&spec.parent).await?;
        let device = || spec.parent.clone();
        if !parent.ethernet {
            return Err(LinkError::NotEthernet { device: device() });
        }
        if !parent.up {
            return Err(LinkError::Down { device: device() });
        }
        if let Some(existing) = client.find(&spec.name).await? {
            return Err(LinkError::NameTaken {
                device: spec.name.clone(),
                found: what(&existing),
            });
        }
        if !spec.take_parent {
            let occupied = client.occupied(parent.ifindex).await?;
            if !occupied.is_free() {
                let parent = device();
                return Err(LinkError::Occupied { parent, occupied });
            }
        }
        let device = client.add_macvtap(spec, parent.ifindex).await?;
        let mut created = Made {
            ifindex: device.ifindex,
            parent: parent.ifindex,
            parent_mtu: None,
        };
        let opened = match raise_parent(client, spec, &parent).await {
            Ok(before) => {
                created.parent_mtu = before;
                set_up(client, spec, &device, created.clone()).await
            }
            Err(error) => Err(error),
        };
        if opened.is_err() {
            // The first error is the one to tell.
            if let Err(error) = created.undo(client).await {
                log::warn!("{} stays behind: {error}", spec.name);
            }
        }
        opened
    })
}

/// What a device is, in sentences.
fn what(device: &Device) -> String {
    match (&device.kind, device.macvtap) {
        (_, Some(mode)) => format!("a MACVTAP device in mode {mode}"),
        (Some(kind), None) => format!("a device of kind {kind}"),
        (None, None) => "a device that is no MACVTAP device".to_owned(),
    }
}

/// A MACVTAP device cannot have a larger MTU than its parent. Returns the parent's MTU where it was
/// raised.
async fn raise_parent(
    client: &Client,
    spec: &MacvtapSpec,
    parent: &Device,
) -> Result<Option<u16>, LinkError> {
    let Some(mtu) = spec.mtu.filter(|mtu| u32::from(*mtu) > parent.mtu) else {
        return Ok(None);
    };
    let settings = Settings {
        mtu: Some(mtu),
        ..Settings::default()
    };
    client
        .change(parent.ifindex, &spec.parent, settings)
        .await?;
    Ok(Some(parent.mtu()))
}

async fn set_up(
    client: &Client,
    spec: &MacvtapSpec,
    device: &Device,
    created: Made,
) -> Result<Opened, LinkError> {
    let (nodes, uso) = open_queues(&spec.name, spec.queues, device.ifindex)?;
    let settings = Settings {
        mtu: spec.mtu,
        // It filters groups by those that the host has joined on it, in every mode.
        all_multicast: true,
        up: true,
        ..Settings::default()
    };
    let changed = client.change(device.ifindex, &spec.name, settings).await;
    changed.map_err(|error| match error {
        // The kernel compares addresses when the device is switched on.
        LinkError::Os {
            errno: libc::EADDRINUSE,
            ..
        } => LinkError::AddressTaken {
            parent: spec.parent.clone(),
        },
        other => other,
    })?;
    let device = client.get(&spec.name).await?;
    Ok(opened(device, uso, Some(Created::Device(created)), nodes))
}

fn opened(device: Device, uso: bool, created: Option<Created>, nodes: Vec<File>) -> Opened {
    Opened {
        facts: Facts {
            kind: Kind::Macvtap,
            ifindex: device.ifindex,
            mac: device.mac,
            mtu: device.mtu(),
            name: device.name,
            uso,
            generic: false,
        },
        created,
        queues: nodes.into_iter().map(OwnedFd::from).collect(),
    }
}

/// Opens the queues of a device; whether the kernel segments UDP.
fn open_queues(name: &str, queues: u16, ifindex: u32) -> Result<(Vec<File>, bool), LinkError> {
    let number = number_of(name, ifindex)?;
    let node = Node::find(ifindex, number).map_err(|error| {
        LinkError::system("making a node for the MACVTAP device", "CAP_MKNOD", &error)
    })?;
    let mut nodes = vec![];
    for _ in 0..queues {
        nodes.push(open_queue(name, queues, &node.path)?);
    }
    drop(node);
    let prepared = |error| LinkError::admin("preparing the MACVTAP device", &error);
    let mut uso = true;
    for node in &nodes {
        uso &= set_up_queue(node).map_err(prepared)?;
        tun::set_send_buffer(node, SEND_BUFFER).map_err(prepared)?;
    }
    Ok((nodes, uso))
}

fn open_queue(name: &str, queues: u16, path: &Path) -> Result<File, LinkError> {
    let node = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| {
            LinkError::system(
                "opening the MACVTAP device's node",
                "CAP_DAC_OVERRIDE",
                &error,
            )
        })?;
    let how = Attach {
        multi_queue: queues > 1,
        exclusive: false,
    };
    tun::attach(&node, name, how)
        .map_err(|error| LinkError::admin("preparing the MACVTAP device", &error))?;
    Ok(node)
}

/// The number of the node, which only `/sys` knows, and only that of the right namespace.
fn number_of(name: &str, ifindex: u32) -> Result<Number, LinkError> {
    let read = || {
        let directory = Path::new("/sys/class/net").join(name);
        let text = fs::read_to_string(directory.join("ifindex")).ok()?;
        if text.trim().parse() != Ok(ifindex) {
            return None;
        }
        let text = fs::read_to_string(directory.join(format!("tap{ifindex}/dev"))).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Number {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    };
    read().ok_or_else(|| LinkError::Sysfs {
        device: name.to_owned(),
    })
}

/// A node by which the device can be opened.
struct Node {
    path: PathBuf,
    /// A directory of our own around it, for a moment.
    directory: Option<PathBuf>,
}

impl Node {
    /// The system names nodes by the number of the device, which another network namespace has as
    /// well, so the node of that name may be another's.
    fn find(ifindex: u32, number: Number) -> io::Result<Self> {
        let shared = PathBuf::from(format!("/dev/tap{ifindex}"));
        let is_ours = fs::symlink_metadata(&shared).is_ok_and(|metadata| {
            metadata.file_type().is_char_device() && metadata.rdev() == number.raw()
        });
        if is_ours {
            return Ok(Self {
                path: shared,
                directory: None,
            });
        }
        // Elsewhere file systems are mounted such that nodes on them cannot be opened.
        let directory = private_directory(Path::new("/dev"))?;
        let path = directory.join("tap");
        // The mask of the process may have taken away what the owner needs.
        let ours = fs::set_permissions(&directory, Permissions::from_mode(0o700));
        let private = Self {
            path,
            directory: Some(directory),
        };
        ours?;
        node::make_character(&private.path, number)?;
        Ok(private)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory
            && let Err(error) = fs::remove_dir_all(directory)
        {
            log::warn!("{} stays behind: {error}", directory.display());
        }
    }
}

/// Makes a directory in `parent` that only its owner may use. Threads may make some at the same time, and one that ran
/// under the same process number may have left some behind.
fn private_directory(parent: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!(".evb-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| directory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fs, private_directory};

    #[test]
    fn directories_are_passed_over_that_are_there_already() {
        let parent = tempfile::tempdir().unwrap();
        let first = private_directory(parent.path()).unwrap();
        let (stem, number) = first.to_str().unwrap().rsplit_once('-').unwrap();
        let number: u64 = number.parse().unwrap();
        for left in number + 1..number + 20 {
            fs::create_dir(format!("{stem}-{left}")).unwrap();
        }
        let next = private_directory(parent.path()).unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 21, "{next:?}");
    }
}
