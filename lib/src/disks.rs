// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Disks, by the kernel's numbers and names.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// A whole disk, as the kernel numbers and names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's internal device number: major << 20 | minor.
    pub dev: u32,
    /// As in /sys/block, where `!` stands for `/`.
    pub name: String,
}

impl Disk {
    /// The disk of this name.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn by_name(name: &str) -> Result<Self, String> {
        let name = name.strip_prefix("/dev/").unwrap_or(name);
        let file = name.replace('/', "!");
        if let Some(dev) = read_dev(&Path::new("/sys/block").join(&file)) {
            return Ok(Self { dev, name: file });
        }
        let class = Path::new("/sys/class/block").join(&file);
        let whole = fs::canonicalize(class)
            .ok()
            .and_then(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()));
        Err(match whole {
            Some(whole) => format!("{name} is a partition: name its disk, {whole}"),
            None => format!("there is no disk {name:?}: see /sys/block"),
        })
    }
}

fn read_dev(sys: &Path) -> Option<u32> {
    let text = fs::read_to_string(sys.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

/// Names of disks by device number, which another disk may have later.
#[derive(Debug, Default)]
pub struct Disks(HashMap<u32, (String, Instant)>);

/// So old may a disk's name be.
const DISK_AGE: Duration = Duration::from_secs(1);
/// At most this many are kept.
const DISKS_MAX: usize = 4096;

impl Disks {
    /// The disk's name, also where it has gone since; `major:minor` where that was before it was asked for.
    pub fn name(&mut self, dev: u32) -> String {
        if let Some((name, read)) = self.0.get(&dev)
            && read.elapsed() < DISK_AGE
        {
            return name.clone();
        }
        let number = format!("{}:{}", dev >> 20, dev & 0xf_ffff);
        let link = fs::read_link(Path::new("/sys/dev/block").join(&number)).ok();
        let name = link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        let before = self.0.remove(&dev).map(|(name, _)| name);
        let name = name.or(before).unwrap_or(number);
        if self.0.len() >= DISKS_MAX {
            self.0.clear();
        }
        self.0.insert(dev, (name.clone(), Instant::now()));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_the_names_of_now() {
        let mut disks = Disks::default();
        let all = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        for (dev, name) in all.filter_map(|entry| Some((read_dev(&entry.path())?, entry.file_name()))) {
            assert_eq!(disks.name(dev), name.to_string_lossy());
        }
        // A number that no driver has.
        assert_eq!(disks.name(4000 << 20 | 7), "4000:7");
        (0..2 * DISKS_MAX as u32).for_each(|minor| drop(disks.name(4000 << 20 | minor)));
        assert!(disks.0.len() <= DISKS_MAX);
    }
}
