// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gethostlatency: print each look-up of a host by the C library, and how long it took.

use std::path::PathBuf;

use kscope::prelude::*;
use kscope::uprobe;
use kscope::uprobe::Place;
use row::Lookup;

mod row;

kscope::bpf!("gethostlatency");
use bpf::types::gethostlatency_call as Call;
use bpf::types::gethostlatency_event as Event;

kscope::tool!(Gethostlatency);

/// Which host names are looked up, how long does it take, and which look-ups fail?
#[derive(Parser, Debug)]
struct Gethostlatency {
    /// Look at calls in this file only: a C library, or a static program with symbols
    #[arg(short, long, value_name = "PATH")]
    libc: Option<PathBuf>,
    /// Print look-ups that failed only
    #[arg(short = 'x', long)]
    failed: bool,
    #[command(flatten)]
    uid: UidColumn,
    #[command(flatten)]
    shared: Snoop,
}

/// The functions, as enum gethostlatency_call has them.
const FUNCTIONS: &[uprobe::Function] = &[
    ("getaddrinfo", Call::GETHOSTLATENCY_GETADDRINFO.0 as u64),
    ("gethostbyname", Call::GETHOSTLATENCY_GETHOSTBYNAME.0 as u64),
    ("gethostbyname2", Call::GETHOSTLATENCY_GETHOSTBYNAME2.0 as u64),
    ("gethostbyname_r", Call::GETHOSTLATENCY_GETHOSTBYNAME_R.0 as u64),
    ("gethostbyname2_r", Call::GETHOSTLATENCY_GETHOSTBYNAME2_R.0 as u64),
    ("gethostbyaddr", Call::GETHOSTLATENCY_GETHOSTBYADDR.0 as u64),
    ("gethostbyaddr_r", Call::GETHOSTLATENCY_GETHOSTBYADDR_R.0 as u64),
    ("getnameinfo", Call::GETHOSTLATENCY_GETNAMEINFO.0 as u64),
    ("res_query", Call::GETHOSTLATENCY_RES_QUERY.0 as u64),
    ("res_search", Call::GETHOSTLATENCY_RES_SEARCH.0 as u64),
    ("res_nquery", Call::GETHOSTLATENCY_RES_NQUERY.0 as u64),
    ("res_nsearch", Call::GETHOSTLATENCY_RES_NSEARCH.0 as u64),
];

impl Tool for Gethostlatency {
    const INFO: Info = Info::new("gethostlatency", Subsystem::Applications);
    type Bpf = bpf::Object;
    type Rows = (Lookup,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).uid(&self.uid)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.rodata().failed_only = self.failed;
        let place = self.libc.map_or(Place::Libraries(uprobe::is_libc), Place::File);
        let (hooks, filter) = (Hooks::new(), &self.shared.filter);
        bpf.stream_of_functions::<Lookup, _>(hooks, FUNCTIONS, place, filter, |event: &Event, tail, out| {
            let row = Lookup::new(event, tail, out);
            Ok(out.row(&row)?)
        })
    }
}
