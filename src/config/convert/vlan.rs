//! The VLAN words of a port, an uplink or the end of a patch.

use std::collections::BTreeMap;

use toml::Spanned;

use super::words::{Faults, place, vid};
use crate::config::file::{EndTable, PortTable, UplinkTable, VidItem, Word, Words};
use crate::config::report::{Fault, Span};
use crate::frame::ethernet::Vid;
use crate::relay::{VidSet, VlanConfig};

/// The VLAN words of one table.
pub struct VlanWords<'a> {
    access: &'a Word<i64>,
    trunk: &'a Words<VidItem>,
    native: &'a Word<i64>,
    qinq: &'a Word<i64>,
    translate: &'a Word<BTreeMap<Spanned<String>, Spanned<i64>>>,
}

macro_rules! vlan_words_of {
    ($($table:ty),*) => {$(
        impl<'a> From<&'a $table> for VlanWords<'a> {
            fn from(table: &'a $table) -> VlanWords<'a> {
                VlanWords {
                    access: &table.access,
                    trunk: &table.trunk,
                    native: &table.native,
                    qinq: &table.qinq,
                    translate: &table.translate,
                }
            }
        }
    )*};
}
vlan_words_of!(PortTable, EndTable, UplinkTable);

impl VlanWords<'_> {
    /// Where the first of the words stands, if there is any.
    pub fn place(&self) -> Option<Span> {
        let places = [
            place(self.access),
            place(self.trunk),
            place(self.native),
            place(self.qinq),
            place(self.translate),
        ];
        places.into_iter().flatten().min_by_key(|span| span.start)
    }

    /// What they say. Words that contradict each other or do not fit leave a fault and count as
    /// none.
    pub fn read(&self, faults: &mut Faults) -> VlanConfig {
        self.contradictions(faults);
        let access = number(self.access, faults).map(VlanConfig::Access);
        let qinq = number(self.qinq, faults).map(VlanConfig::Qinq);
        let native = number(self.native, faults);
        let trunk = self.trunk.as_ref().map(|list| trunk(list, native, faults));
        let translate = self.translate.as_ref().map(|map| translate(map, faults));
        access
            .or(trunk)
            .or(translate)
            .or(qinq)
            .unwrap_or(VlanConfig::Flat)
    }

    fn contradictions(&self, faults: &mut Faults) {
        let words = [
            ("access", place(self.access)),
            ("trunk", place(self.trunk)),
            ("qinq", place(self.qinq)),
            ("translate", place(self.translate)),
        ];
        let mut given = words.into_iter().filter_map(|(key, at)| Some((key, at?)));
        let first = given.next();
        if let Some((key, at)) = &first {
            for (other, there) in given {
                faults.push(
                    Fault::at(there, format!("a port has either `{key}` or `{other}`"))
                        .with(at.clone(), format!("`{key}` is here"))
                        .help("keep one of them"),
                );
            }
        }
        let Some(native) = self.native else { return };
        if self.trunk.is_some() {
            return;
        }
        let fault = Fault::at(native.span(), "`native` goes with `trunk` only");
        let vid = native.get_ref();
        faults.push(match first {
            Some((key, at)) => fault
                .with(at, format!("this port has `{key}`"))
                .help(format!(
                    "leave `native` out, or write `trunk` instead of `{key}`"
                )),
            None => fault.help(format!(
                "add `trunk = [..]` with the tagged VIDs, or write `access = {vid}`"
            )),
        });
    }
}

fn number(word: &Word<i64>, faults: &mut Faults) -> Option<Vid> {
    let word = word.as_ref()?;
    vid(*word.get_ref(), word.span(), faults)
}

/// A native VID that is not listed joins the set.
fn trunk(
    list: &Spanned<Vec<Spanned<VidItem>>>,
    native: Option<Vid>,
    faults: &mut Faults,
) -> VlanConfig {
    if list.get_ref().is_empty() {
        faults.push(
            Fault::at(list.span(), "the list of VIDs is empty")
                .help("list numbers and ranges: `trunk = [10, \"20-29\"]`"),
        );
    }
    let mut vids = vid_set(list.get_ref(), faults);
    vids.extend(native);
    VlanConfig::Trunk { vids, native }
}

/// A list of numbers and ranges.
pub fn vid_set(list: &[Spanned<VidItem>], faults: &mut Faults) -> VidSet {
    let mut set = VidSet::new();
    for item in list {
        match item.get_ref() {
            VidItem::One(value) => set.extend(vid(*value, item.span(), faults)),
            VidItem::Range(text) => {
                if let Some((low, high)) = range(text, item.span(), faults) {
                    set.extend((low.get()..=high.get()).filter_map(Vid::new));
                }
            }
        }
    }
    set
}

fn range(text: &str, at: Span, faults: &mut Faults) -> Option<(Vid, Vid)> {
    let ends: Option<(i64, i64)> = match text.split_once('-') {
        Some((low, high)) => digits(low).zip(digits(high)),
        None => digits(text).map(|value| (value, value)),
    };
    let Some((low, high)) = ends else {
        faults.push(
            Fault::at(
                at,
                format!("`{}` is not a range of VIDs", text.escape_debug()),
            )
            .help("a range is written `\"20-29\"`"),
        );
        return None;
    };
    if low > high {
        faults.push(
            Fault::at(at, format!("the range {low}-{high} runs backwards"))
                .help(format!("write `\"{high}-{low}\"`")),
        );
        return None;
    }
    vid(low, at.clone(), faults).zip(vid(high, at, faults))
}

fn digits(text: &str) -> Option<i64> {
    let text = text.trim();
    let plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn translate(
    map: &Spanned<BTreeMap<Spanned<String>, Spanned<i64>>>,
    faults: &mut Faults,
) -> VlanConfig {
    if map.get_ref().is_empty() {
        faults.push(
            Fault::at(map.span(), "no VID is translated")
                .help("write external = internal: `translate = { 10 = 110 }`"),
        );
    }
    let mut pairs: BTreeMap<Vid, Vid> = BTreeMap::new();
    let mut inner: BTreeMap<Vid, Span> = BTreeMap::new();
    let mut entries: Vec<_> = map.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let Some(number) = digits(key.get_ref()) else {
            faults.push(
                Fault::at(
                    key.span(),
                    format!("`{}` is not a VID", key.get_ref().escape_debug()),
                )
                .help("write external = internal: `translate = { 10 = 110 }`"),
            );
            continue;
        };
        let internal = vid(*value.get_ref(), value.span(), faults);
        let Some((external, internal)) = vid(number, key.span(), faults).zip(internal) else {
            continue;
        };
        if let Some(first) = inner.insert(internal, value.span()) {
            faults.push(
                Fault::at(
                    value.span(),
                    format!("two VIDs are translated to {internal}"),
                )
                .with(first, "the first")
                .help(
                    "each internal VID stands for one external VID, or replies could not find back",
                ),
            );
        }
        if pairs.insert(external, internal).is_some() {
            faults.push(
                Fault::at(key.span(), format!("{external} is translated twice"))
                    .help("list each external VID once"),
            );
        }
    }
    VlanConfig::Translate(pairs)
}
