//! The devices of the host behind a port: one, or those of a bond, of which one carries the frames.
//!
//! Invariant: workers see a device only while it is open, switched on and has a carrier. The first one
//! of a bond that is so is the active one.
//!
//! A device that is gone is looked for by a task of its own, again and again, until it is back.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::event::Event;
use crate::api_types::LinkStatus;
use crate::privileged::Privileged;
use crate::sys::ethtool::name_of;
use crate::uplink::netlink::{Change, State, Watch};
use crate::uplink::{Link, Spec};
use crate::worker::Attachment;

/// Pauses between attempts to open a device that is gone.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Pause before the news of devices are asked for again.
const WATCH_RETRY: Duration = Duration::from_secs(1);

/// A link that is wanted: its name, which is that of its uplink or port unless it is in a bond, and
/// the device.
pub type Named = (String, Spec);

/// What is known of all devices, by their number.
pub type Known = BTreeMap<u32, State>;

/// What came of opening the devices of a port, in their order.
pub type Attempts = Vec<Result<Link, String>>;

/// Tells searches apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchId(u64);

/// A device that is open.
#[derive(Debug)]
pub struct Open {
    link: Arc<Link>,
    up: bool,
    /// Answers when nobody uses the link any more.
    ended: oneshot::Receiver<()>,
}

/// A device that is being looked for. The task ends when this is dropped.
struct Search {
    id: SearchId,
    _stop: watch::Sender<()>,
    /// Makes it try soon.
    hint: Arc<Notify>,
}

enum Member {
    Open(Open),
    Away(Search),
}

/// The devices behind a port.
pub struct Links {
    names: Vec<Named>,
    members: Vec<Member>,
    active: Option<usize>,
    /// The one that was active last.
    last: Option<usize>,
    /// The MTU that the configuration gives to the port.
    mtu: Option<u16>,
}

/// What is needed to open devices.
#[derive(Clone)]
pub struct Opener {
    pub privileged: Arc<Privileged>,
    pub events: mpsc::UnboundedSender<Event>,
}

/// What a change of a device means for its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whether it carried frames before.
    pub was_active: bool,
    /// Whether another link of the bond carries them than the one that did last.
    pub over: bool,
}

impl Open {
    fn new(mut link: Link, known: &Known) -> Self {
        let ended = link.end();
        let mut open = Self {
            link: Arc::new(link),
            up: false,
            ended,
        };
        if let Some(state) = known.get(&open.link.ifindex()) {
            open.note(*state);
        }
        open
    }

    fn note(&mut self, state: State) {
        self.up = state.up;
        self.link
            .set_mtu(u16::try_from(state.mtu).unwrap_or(u16::MAX));
    }

    /// Whether the device went before this one was heard of, so that the news of its end are past. Those of
    /// one that is there and not `known` are still to come.
    fn has_vanished(&self, known: &Known) -> bool {
        let ifindex = self.link.ifindex();
        !known.contains_key(&ifindex) && name_of(ifindex).is_none()
    }

    /// Removes the device, if it was made for us, and waits until nobody uses it.
    async fn close(self, privileged: Arc<Privileged>) {
        let Self { link, ended, .. } = self;
        let removed = tokio::task::spawn_blocking(move || {
            if let Err(error) = privileged.remove_link(&link) {
                log::warn!("{error}");
            }
        });
        // The task does not panic, and the other end of the channel is never used.
        let _ = removed.await;
        let _ = ended.await;
    }
}

impl Opener {
    /// Tries to open the devices of a port. It may take seconds.
    pub fn attempt(&self, names: &[Named], mtu: Option<u16>) -> Attempts {
        let each = names.iter();
        each.map(|(_, spec)| self.open_one(spec, mtu)).collect()
    }

    /// The links of a port. A bond needs one of its devices at the start, anything else its own.
    ///
    /// # Errors
    ///
    /// Why not, with the remedy.
    pub fn take(
        &self,
        port: &str,
        names: &[Named],
        mtu: Option<u16>,
        attempts: Attempts,
        known: &Known,
    ) -> Result<Links, String> {
        if attempts.iter().all(Result::is_err) {
            let errors: Vec<_> = attempts.into_iter().filter_map(Result::err).collect();
            return Err(errors.join("; "));
        }
        let members = attempts.into_iter().zip(names).map(|(opened, named)| {
            let label = label(port, &named.0);
            match opened.map(|link| Open::new(link, known)) {
                Ok(open) if open.has_vanished(known) => {
                    log::warn!(
                        "{label}: {} is gone again; looking for it",
                        open.link.name()
                    );
                    Member::Away(self.search(port, named, mtu, Some(open), String::new()))
                }
                Ok(open) => Member::Open(open),
                Err(error) => {
                    log::warn!("{label}: {error}; trying again");
                    Member::Away(self.search(port, named, mtu, None, error))
                }
            }
        });
        let mut links = Links {
            members: members.collect(),
            names: names.to_vec(),
            active: None,
            last: None,
            mtu,
        };
        links.choose();
        links.last = links.active;
        Ok(links)
    }

    fn open_one(&self, spec: &Spec, mtu: Option<u16>) -> Result<Link, String> {
        let link = self
            .privileged
            .open_link(spec)
            .map_err(|error| error.to_string())?;
        match mtu.filter(|mtu| *mtu > link.mtu()) {
            None => Ok(link),
            Some(mtu) => {
                let device = link.name();
                let why = format!(
                    "{device} has an MTU of {}, below the port's {mtu}; set it with `ip link set dev \
                     {device} mtu {mtu}`, or choose a smaller `mtu`",
                    link.mtu()
                );
                if let Err(error) = self.privileged.remove_link(&link) {
                    log::warn!("{error}");
                }
                Err(why)
            }
        }
    }

    /// Looks for a device until it is there; `before` is closed first.
    fn search(
        &self,
        port: &str,
        (name, spec): &Named,
        mtu: Option<u16>,
        before: Option<Open>,
        last_error: String,
    ) -> Search {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = SearchId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (stop, stopped) = watch::channel(());
        let hint = Arc::new(Notify::new());
        let task = Task {
            id,
            opener: self.clone(),
            label: label(port, name),
            spec: spec.clone(),
            mtu,
            hint: Arc::clone(&hint),
            stopped,
            last_error,
        };
        tokio::spawn(task.run(before));
        Search {
            id,
            _stop: stop,
            hint,
        }
    }

    /// Closes a link that nobody wants, and says so with [`Event::EndpointGone`].
    pub fn discard(&self, link: Link) {
        self.close(Open::new(link, &Known::new()));
    }

    /// The same for all links of a port. Returns how many of these events will come.
    pub fn close_all(&self, links: Links) -> usize {
        let count = links.members.len();
        for member in links.members {
            // A search says it by itself.
            if let Member::Open(open) = member {
                self.close(open);
            }
        }
        count
    }

    fn close(&self, open: Open) {
        let Self { privileged, events } = self.clone();
        tokio::spawn(async move {
            open.close(privileged).await;
            let _ = events.send(Event::EndpointGone);
        });
    }
}

/// A search under way.
struct Task {
    id: SearchId,
    opener: Opener,
    label: String,
    spec: Spec,
    mtu: Option<u16>,
    hint: Arc<Notify>,
    stopped: watch::Receiver<()>,
    last_error: String,
}

impl Task {
    /// Ends with the link, or with the word that there is none and nobody wants it any more.
    async fn run(mut self, before: Option<Open>) {
        if let Some(open) = before {
            open.close(Arc::clone(&self.opener.privileged)).await;
        }
        let mut pause = FIRST_RETRY;
        loop {
            tokio::select! {
                _ = self.stopped.changed() => break,
                () = self.hint.notified() => {
                    // News of devices come in numbers; the last is the one that matters.
                    tokio::time::sleep(FIRST_RETRY).await;
                    pause = FIRST_RETRY;
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
            }
            let (opener, spec, mtu) = (self.opener.clone(), self.spec.clone(), self.mtu);
            let attempt = tokio::task::spawn_blocking(move || opener.open_one(&spec, mtu));
            match attempt.await {
                Ok(Ok(link)) => {
                    let found = Event::Found {
                        search: self.id,
                        link,
                    };
                    let _ = self.opener.events.send(found);
                    return;
                }
                Ok(Err(error)) if error != self.last_error => {
                    log::warn!("{}: {error}; trying again", self.label);
                    self.last_error = error;
                }
                // Its end has been reported on standard error.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let _ = self.opener.events.send(Event::EndpointGone);
    }
}

/// How messages call a link.
fn label(port: &str, link: &str) -> String {
    if port == link {
        format!("port {port}")
    } else {
        format!("port {port}: link {link}")
    }
}

impl Links {
    /// What workers are to use.
    pub fn attachment(&self) -> Attachment {
        Attachment::Link(self.active_link().cloned())
    }

    /// Whether frames can come and go.
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Queues that any of the links has or is to have. One whose device decides that may come back with more.
    pub fn queues(&self) -> u16 {
        let each = self.names.iter().zip(&self.members);
        let queues = each.map(|((_, spec), member)| match member {
            // There are never as many as would not fit.
            Member::Open(open) => (open.link.queues().len() as u16).max(spec.queues()),
            Member::Away(_) => spec.queues(),
        });
        queues.max().unwrap_or_default()
    }

    /// The longest packet that the port takes now: the configuration's limit and that of the device.
    pub fn mtu(&self) -> Option<u16> {
        let device = self.active_link().map(|link| link.mtu());
        self.mtu.into_iter().chain(device).min()
    }

    /// Each link as an operator sees it.
    pub fn status(&self) -> Vec<LinkStatus> {
        let each = self.names.iter().zip(&self.members).enumerate();
        each.map(|(index, ((name, spec), member))| {
            let open = match member {
                Member::Open(open) => Some(open),
                Member::Away(_) => None,
            };
            LinkStatus {
                name: name.clone(),
                kind: open
                    .map_or(spec.kind(), |open| open.link.kind())
                    .to_string(),
                device: open.map_or(spec.name(), |open| open.link.name()).to_owned(),
                present: open.is_some(),
                carrier: open.is_some_and(|open| open.up),
                active: self.active == Some(index),
                mtu: open.map(|open| open.link.mtu()),
                mode: open
                    .and_then(|open| open.link.xdp_mode())
                    .map(|mode| mode.to_string()),
            }
        })
        .collect()
    }

    fn active_link(&self) -> Option<&Arc<Link>> {
        match self.members.get(self.active?)? {
            Member::Open(open) => Some(&open.link),
            Member::Away(_) => None,
        }
    }

    /// Whether one of these is about one of its devices.
    pub fn concern(&self, changes: &[Change]) -> bool {
        let told = |ifindex| changes.iter().any(|change| change.ifindex == ifindex);
        self.position(|open| told(open.link.ifindex())).is_some()
    }

    /// Whether this search is for one of its devices.
    pub fn has_search(&self, search: SearchId) -> bool {
        let mut members = self.members.iter();
        members.any(|member| matches!(member, Member::Away(away) if away.id == search))
    }

    fn position(&self, wanted: impl Fn(&Open) -> bool) -> Option<usize> {
        let is_it = |member: &Member| matches!(member, Member::Open(open) if wanted(open));
        self.members.iter().position(is_it)
    }

    /// Takes note of what is true of devices now, be they its own or not.
    pub fn note(&mut self, port: &str, changes: &[Change], opener: &Opener) -> Turn {
        for change in changes {
            if let Some(index) = self.position(|open| open.link.ifindex() == change.ifindex) {
                self.note_one(port, index, change.now, opener);
            }
        }
        self.turn()
    }

    fn note_one(&mut self, port: &str, index: usize, now: Option<State>, opener: &Opener) {
        let named = &self.names[index];
        let label = label(port, &named.0);
        match (now, &mut self.members[index]) {
            (Some(state), Member::Open(open)) => {
                let (was_up, mtu) = (open.up, open.link.mtu());
                open.note(state);
                let device = open.link.name();
                match (was_up, open.up) {
                    (false, true) => log::info!("{label}: {device} has a carrier"),
                    (true, false) => log::warn!("{label}: {device} has no carrier"),
                    _ => {}
                }
                if open.link.mtu() != mtu {
                    log::info!("{label}: the MTU of {device} is {} now", open.link.mtu());
                }
            }
            _ => {
                if let Member::Open(open) = self.members.remove(index) {
                    log::warn!("{label}: {} is gone; looking for it", open.link.name());
                    let search = opener.search(port, named, self.mtu, Some(open), String::new());
                    self.members.insert(index, Member::Away(search));
                }
            }
        }
    }

    /// Takes the link that a search has found.
    pub fn found(
        &mut self,
        port: &str,
        search: SearchId,
        link: Link,
        known: &Known,
        opener: &Opener,
    ) -> Turn {
        let mut all = self.names.iter().zip(&mut self.members);
        let found = all.find(|(_, member)| matches!(member, Member::Away(it) if it.id == search));
        if let Some((named, member)) = found {
            let label = label(port, &named.0);
            let open = Open::new(link, known);
            *member = if open.has_vanished(known) {
                log::warn!(
                    "{label}: {} is gone again; looking for it",
                    open.link.name()
                );
                let (mtu, before) = (self.mtu, Some(open));
                Member::Away(opener.search(port, named, mtu, before, String::new()))
            } else {
                log::info!("{label}: {} is back", open.link.name());
                Member::Open(open)
            };
        }
        self.turn()
    }

    /// Something has changed on the host: what is missing may be there.
    pub fn hint(&self) {
        for member in &self.members {
            if let Member::Away(search) = member {
                search.hint.notify_one();
            }
        }
    }

    /// Makes the first link that has a carrier the active one.
    fn choose(&mut self) {
        self.active = self.position(|open| open.up);
    }

    fn turn(&mut self) -> Turn {
        let was = self.active;
        self.choose();
        let mut over = false;
        if let (Some(now), true) = (self.active, self.active != was) {
            if let (true, Some(link)) = (self.members.len() > 1, self.active_link()) {
                // What it has received while another was active, others have received as well.
                link.drain();
            }
            over = self.last.replace(now).is_some_and(|last| last != now);
        }
        Turn {
            was_active: was.is_some(),
            over,
        }
    }

    /// The name of the active link.
    pub fn active_name(&self) -> Option<&str> {
        let (name, _) = self.names.get(self.active?)?;
        Some(name)
    }
}

/// Waits for news, and takes all that there are by then: they are true together.
async fn more(watch: &mut Watch) -> io::Result<Vec<Change>> {
    let mut changes = vec![watch.next().await?];
    changes.extend(watch.stock().await?);
    Ok(changes)
}

/// Passes the news of devices on to the daemon, for ever.
pub async fn follow(mut watch: Watch, events: mpsc::UnboundedSender<Event>) {
    loop {
        match more(&mut watch).await {
            Ok(changes) => {
                if events.send(Event::Devices(changes)).is_err() {
                    return;
                }
            }
            Err(error) => {
                log::error!("no news of network devices: {error}; trying again");
                tokio::time::sleep(WATCH_RETRY).await;
                if let Err(error) = watch.renew() {
                    log::error!("cannot watch network devices: {error}");
                }
            }
        }
    }
}
