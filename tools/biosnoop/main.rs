// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biosnoop: print each block I/O.

use std::time::Duration;

use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::disks::Disk;
use kscope::disks::Disks;
use kscope::options;
use kscope::prelude::*;
use row::Io;

mod row;

kscope::bpf!("biosnoop");
use bpf::types::biosnoop_event as Event;

kscope::tool!(Biosnoop);

/// Which block I/O is done, for whom, and how long does each take?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')))]
#[command(mut_arg("timestamps", |a| a.short('t').alias("timestamp")))]
struct Biosnoop {
    /// Print also how long each I/O was in the queue, from its submission to its issue to the device
    #[arg(short = 'Q', long)]
    queued: bool,
    /// Print I/O of this disk only
    #[arg(short, long, value_name = "DISK", value_parser = Disk::by_name)]
    disk: Option<Disk>,
    /// Print I/O that took the device at least so many milliseconds, or a time with a unit as in 500us, 10ms, 2s
    #[arg(short, long, value_name = "MIN", value_parser = options::milliseconds)]
    min: Option<Duration>,
    #[command(flatten)]
    uid: UidColumn,
    #[command(flatten)]
    shared: Snoop,
}

impl Tool for Biosnoop {
    const INFO: Info = Info::new("biosnoop", Subsystem::BlockIo);
    type Bpf = bpf::Object;
    type Rows = (Io<'static>,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).uid(&self.uid)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Io::QUE_MS], self.queued);
        let queued = self.shared.common.json || self.queued;
        let needs = Needs::of(self.disk.as_ref(), queued);
        let (layout, flag_names) = (Layout::of(bpf.kernel()), FlagNames::new(bpf.kernel()));
        let rodata = bpf.rodata();
        kscope::set_block!(rodata, &layout, &self.disk);
        rodata.min_ns = self.min.map_or(0, |min| u64::try_from(min.as_nanos()).unwrap_or(u64::MAX));
        rodata.want_queue_time = queued;
        rodata.follow_bios = needs.bios;
        needs.size_maps(bpf.object())?;
        let (hooks, note) = needs.hooks(self.disk.as_ref(), bpf.kernel(), &[]);
        note.into_iter().for_each(|note: String| bpf.note(note));
        let mut disks = Disks::default();
        bpf.attach(hooks)?.stream::<Io<'_>, _>(|event: &Event, _, out| {
            let layer = layout.layer(event.dev, event.is_bio != 0);
            let io = Io::new(event, disks.name(event.dev), layer, flag_names.of(event.cmd_flags), out);
            Ok(out.row(&io)?)
        })
    }
}
