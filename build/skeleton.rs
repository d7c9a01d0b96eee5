// SPDX-License-Identifier: Apache-2.0 OR MIT
//! libbpf-cargo's skeleton, brought down to what a tool uses: of the types its own and those that they hold, and of the
//! object its compressed form.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use proc_macro2::TokenStream;
use quote::ToTokens as _;
use quote::format_ident;
use quote::quote;
use syn::Expr;
use syn::ExprLit;
use syn::Ident;
use syn::Item;
use syn::ItemMod;
use syn::ItemStruct;
use syn::Lit;
use syn::Type;
use syn::parse_quote;
use syn::visit::Visit;
use syn::visit_mut::VisitMut;

/// The names of types that a tool's programs declare, and not the kernel's headers, begin with its own name or with this.
const SHARED: &str = "kscope_";
/// Types of the sections of variables.
const SECTIONS: [&str; 3] = ["rodata", "bss", "data"];

/// The skeleton of `tool`, whose compressed object is in the file `object`, and whose structs have these sizes.
pub fn trimmed(skeleton: &str, tool: &str, object: &Path, sizes: &BTreeMap<String, usize>) -> Result<String> {
    let mut file = syn::parse_file(skeleton).context("the skeleton")?;
    let imp = module(&mut file.items, "imp")?;
    let mut outside = References::default();
    for item in imp.iter().filter(|item| !matches!(item, Item::Mod(_))) {
        outside.visit_item(item);
    }
    let types = module(imp, "types")?;
    trim_types(types, tool, outside.0);
    types.extend(plain(types, sizes));
    let glue = Glue::of(imp)?.tokens();
    let path = object.to_str().context("a path that is no UTF-8")?;
    for item in imp.iter_mut() {
        match item {
            Item::Static(data) if data.ident == "DATA" => {
                *item = parse_quote! { static DATA: &[u8] = include_bytes!(#path); };
            }
            Item::Fn(function) if function.sig.ident == "build_skel_config" => {
                Unpacked.visit_item_fn_mut(function)
            }
            _ => (),
        }
    }
    let skeleton = file.into_token_stream();
    Ok(quote! { #skeleton #glue }.to_string())
}

fn module<'a>(items: &'a mut [Item], name: &str) -> Result<&'a mut Vec<Item>> {
    let found = items.iter_mut().find_map(|item| match item {
        Item::Mod(ItemMod { ident, content: Some((_, items)), .. }) if ident == name => Some(items),
        _ => None,
    });
    found.ok_or_else(|| anyhow!("the skeleton has no module {name}"))
}

/// The object is unpacked where it is opened.
struct Unpacked;

impl VisitMut for Unpacked {
    fn visit_expr_mut(&mut self, expr: &mut syn::Expr) {
        let data: syn::Expr = parse_quote! { &DATA };
        if *expr == data {
            *expr = parse_quote! { kscope::objects::unpack(DATA)? };
        }
        syn::visit_mut::visit_expr_mut(self, expr);
    }
}

/// Every type of the module `types` that is named.
#[derive(Default)]
struct References(BTreeSet<String>);

impl Visit<'_> for References {
    fn visit_path(&mut self, path: &syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "types") {
            self.0.extend(segments.next().map(|name| name.ident.to_string()));
        }
        syn::visit::visit_path(self, path);
    }
}

/// Every name.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Visit<'_> for Names {
    fn visit_ident(&mut self, ident: &Ident) {
        self.0.insert(ident.to_string());
    }
}

/// The types that are held, and not only pointed to.
#[derive(Default)]
struct Held(BTreeSet<String>);

impl Visit<'_> for Held {
    fn visit_type(&mut self, of: &Type) {
        match of {
            Type::Ptr(_) => (),
            Type::Path(path) => {
                self.0.extend(path.path.get_ident().map(ToString::to_string));
                syn::visit::visit_type(self, of);
            }
            _ => syn::visit::visit_type(self, of),
        }
    }
}

/// What an item declares, or is about.
fn subject(item: &Item) -> Option<String> {
    match item {
        Item::Struct(item) => Some(item.ident.to_string()),
        Item::Union(item) => Some(item.ident.to_string()),
        Item::Enum(item) => Some(item.ident.to_string()),
        Item::Type(item) => Some(item.ident.to_string()),
        Item::Impl(item) => match &*item.self_ty {
            Type::Path(path) => path.path.get_ident().map(ToString::to_string),
            _ => None,
        },
        _ => None,
    }
}

fn trim_types(items: &mut Vec<Item>, tool: &str, outside: BTreeSet<String>) {
    let own = format!("{tool}_");
    let mut holds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for item in items.iter().filter(|item| !matches!(item, Item::Impl(_))) {
        if let Some(name) = subject(item) {
            let mut held = Held::default();
            held.visit_item(item);
            holds.entry(name).or_default().extend(held.0);
        }
    }
    let is_root = |name: &String| {
        name.starts_with(&own)
            || name.starts_with(SHARED)
            || outside.contains(name)
            || SECTIONS.iter().any(|section| name.starts_with(section))
    };
    let mut kept = BTreeSet::new();
    let mut next: Vec<String> = holds.keys().filter(|name| is_root(name)).cloned().collect();
    while let Some(name) = next.pop() {
        if kept.insert(name.clone()) {
            next.extend(holds.get(&name).into_iter().flatten().cloned());
        }
    }
    items.retain(|item| subject(item).is_none_or(|name| kept.contains(&name)));
    let mut others = Pointers { kept: &kept, known: &holds };
    items.iter_mut().for_each(|item| others.visit_item_mut(item));
}

/// What points to a type that is not there points to anything.
struct Pointers<'a> {
    kept: &'a BTreeSet<String>,
    known: &'a BTreeMap<String, BTreeSet<String>>,
}

impl VisitMut for Pointers<'_> {
    fn visit_type_ptr_mut(&mut self, pointer: &mut syn::TypePtr) {
        let mut named = Names::default();
        named.visit_type(&pointer.elem);
        if named.0.iter().any(|name| self.known.contains_key(name) && !self.kept.contains(name)) {
            *pointer.elem = parse_quote! { std::ffi::c_void };
        }
        syn::visit_mut::visit_type_ptr_mut(self, pointer);
    }
}

/// That records of these types may be made of any bytes: of the structs that hold whole numbers of fixed width alone,
/// with no room between them that nobody fills.
fn plain(items: &[Item], sizes: &BTreeMap<String, usize>) -> Vec<Item> {
    let structs: BTreeMap<String, &ItemStruct> = items
        .iter()
        .filter_map(|item| match item {
            Item::Struct(item) => Some((item.ident.to_string(), item)),
            _ => None,
        })
        .collect();
    let is_plain = |(name, of): (&String, &&ItemStruct)| {
        let size = *sizes.get(name)?;
        let filled = of.fields.iter().map(|field| filled(field, &structs)).sum::<Option<usize>>()?;
        (filled == size).then(|| (of.ident.clone(), size))
    };
    let implemented = |(name, size): (Ident, usize)| -> [Item; 2] {
        [
            parse_quote! { const _: () = assert!(size_of::<#name>() == #size); },
            // SAFETY: every bit pattern is a value: `filled` has looked at all members, and the sum of their sizes is
            // that of the struct in BTF, to which the line above compares Rust's.
            parse_quote! { unsafe impl kscope::Plain for #name {} },
        ]
    };
    structs.iter().filter_map(is_plain).flat_map(implemented).collect()
}

/// How many bytes of a member are values, whatever is in them.
fn filled(field: &syn::Field, structs: &BTreeMap<String, &ItemStruct>) -> Option<usize> {
    let is_room = field.ident.as_ref().is_some_and(|name| name.to_string().starts_with("__pad"));
    if is_room { None } else { filled_type(&field.ty, structs) }
}

fn filled_type(of: &Type, structs: &BTreeMap<String, &ItemStruct>) -> Option<usize> {
    match of {
        Type::Array(array) => {
            let Expr::Lit(ExprLit { lit: Lit::Int(len), .. }) = &array.len else { return None };
            filled_type(&array.elem, structs)?.checked_mul(len.base10_parse().ok()?)
        }
        Type::Path(path) => match path.path.get_ident()?.to_string().as_str() {
            "u8" | "i8" => Some(1),
            "u16" | "i16" => Some(2),
            "u32" | "i32" => Some(4),
            "u64" | "i64" => Some(8),
            name => structs.get(name)?.fields.iter().map(|field| filled(field, structs)).sum(),
        },
        _ => None,
    }
}

/// What the library is told of an object: its names, so that what is misspelt does not compile, and the constants that
/// it sets for all tools.
struct Glue {
    /// As the skeleton has it, as `Exitsnoop`.
    name: String,
    maps: Vec<String>,
    hooks: BTreeSet<String>,
    constants: BTreeSet<String>,
    has_stacks: bool,
    has_ends: bool,
    has_task: bool,
}

/// The constants that the library sets where a tool's programs have them (`kscope::bpf::Constants`): `filter` and those
/// of bpf/stack.bpf.h stand for others.
const SET_BY_LIBRARY: [&str; 8] = [
    "want_uid",
    "want_cgroup",
    "sched_switch_state_second",
    "stack_depth",
    "stack_want_kernel",
    "stack_want_user",
    "filter_cgroup_map",
    "filter_mntns_map",
];

impl Glue {
    fn of(imp: &mut [Item]) -> Result<Self> {
        let fields = |prefix: &str, suffix: &str| {
            imp.iter().find_map(|item| match item {
                Item::Struct(item) => {
                    let name = item.ident.to_string();
                    let name = name.strip_prefix(prefix)?.strip_suffix(suffix)?.to_string();
                    let fields = item.fields.iter().filter_map(|field| field.ident.as_ref());
                    Some((name, fields.map(ToString::to_string).collect::<Vec<String>>()))
                }
                _ => None,
            })
        };
        let (name, maps) = fields("Open", "Maps").context("the skeleton has no maps")?;
        let (_, programs) = fields("Open", "Progs").context("the skeleton has no programs")?;
        let is_own = |map: &String| !map.starts_with('_') && !SECTIONS.iter().any(|s| map.starts_with(s));
        let hook = |program: &String| program.split("__").next().unwrap_or_default().to_string();
        let types = module(imp, "types")?;
        let rodata = types.iter().find_map(|item| match item {
            Item::Struct(item) if item.ident == "rodata" => Some(item),
            _ => None,
        });
        let constants = rodata.into_iter().flat_map(|rodata| &rodata.fields);
        Ok(Self {
            name,
            maps: maps.into_iter().filter(is_own).collect(),
            hooks: programs.iter().map(hook).collect(),
            constants: constants.filter_map(|field| Some(field.ident.as_ref()?.to_string())).collect(),
            has_stacks: types.iter().filter_map(subject).any(|name| name == "kscope_stack_head"),
            has_ends: types.iter().filter_map(subject).any(|name| name == "kscope_ends"),
            has_task: types.iter().filter_map(subject).any(|name| name == "kscope_task"),
        })
    }

    fn tokens(&self) -> TokenStream {
        let constants = |names: &mut dyn Iterator<Item = &String>, of: TokenStream| -> TokenStream {
            names
                .map(|name| {
                    let constant = format_ident!("{}", name.to_uppercase());
                    quote! { pub const #constant: #of = #of(#name); }
                })
                .collect()
        };
        let maps = constants(&mut self.maps.iter(), quote! { kscope::maps::Map });
        let hooks = constants(&mut self.hooks.iter(), quote! { kscope::hooks::Hook });
        let [builder, open, loaded] = [("", "SkelBuilder"), ("Open", "Skel"), ("", "Skel")]
            .map(|(a, b)| format_ident!("{a}{}{b}", self.name));
        let has = |name: &str| self.constants.contains(name);
        let set = SET_BY_LIBRARY.into_iter().filter(|name| has(name)).map(|name| {
            let name = format_ident!("{name}");
            quote! { rodata.#name = constants.#name; }
        });
        let has_filter = has("filter");
        let filter = has_filter.then(|| {
            quote! { if let Some(filter) = constants.filter { kscope::set_filter!(rodata, filter); } }
        });
        let storage = has("task_storage").then(|| quote! { rodata.task_storage = is_storage; });
        let stacks = self.has_stacks.then(|| quote! { kscope::stack_types!(Object); });
        let task = self.has_task.then(|| quote! { kscope::task_types!(); });
        let ends = self.has_ends.then(|| quote! { kscope::socket_types!(); });
        quote! {
            /// The maps.
            #[allow(dead_code)]
            pub mod maps { #maps }
            /// The hooks.
            #[allow(dead_code)]
            pub mod hooks { #hooks }
            /// The object.
            pub struct Object;
            impl kscope::bpf::Bpf for Object {
                const HAS_FILTER: bool = #has_filter;
                type Builder = #builder;
                type Open<'o> = #open<'o>;
                type Loaded<'o> = #loaded<'o>;
                type Rodata = types::rodata;
                type Bss = types::bss;
                fn rodata<'o>(open: &mut Self::Open<'o>) -> Option<&'o mut types::rodata> {
                    open.maps.rodata_data.take()
                }
                fn bss<'o>(loaded: &mut Self::Loaded<'o>) -> Option<&'o mut types::bss> {
                    loaded.maps.bss_data.take()
                }
                #[allow(unused_variables)]
                fn set(rodata: &mut types::rodata, constants: &kscope::bpf::Constants<'_>) -> Result<(), kscope::Error> {
                    #filter
                    #(#set)*
                    Ok(())
                }
                #[allow(unused_variables)]
                fn set_task_storage(rodata: &mut types::rodata, is_storage: bool) {
                    #storage
                }
            }
            #stacks
            #ends
            #task
        }
    }
}
