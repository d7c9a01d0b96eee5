// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The implementations.

use proc_macro2::TokenStream;
use quote::format_ident;
use quote::quote;
use syn::Data;
use syn::DeriveInput;
use syn::Error;
use syn::Fields;
use syn::Lifetime;
use syn::LitStr;
use syn::Result;
use syn::Type;
use syn::visit_mut::VisitMut;

use crate::attributes::OfField;
use crate::attributes::OfRow;
use crate::attributes::doc;

/// How many decimals a number has where nothing is said.
const DECIMALS: usize = 3;

/// Fields of the row that follow on each other: its own, each with what makes its value, or those of one that is flattened.
enum Part {
    Own(Vec<(TokenStream, TokenStream)>),
    Flattened { of: Box<Type>, fields: TokenStream, value: TokenStream },
}

pub fn row(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(input, "a row is a struct"));
    };
    let Fields::Named(members) = &data.fields else {
        return Err(Error::new_spanned(&input.ident, "a row has fields with names"));
    };
    let attributes = OfRow::read(&input.attrs)?;
    let mut parts: Vec<Part> = Vec::new();
    for member in &members.named {
        let of = OfField::read(&member.attrs)?;
        if !of.skip {
            add(&mut parts, member, &of)?;
        }
    }
    let fields = parts.iter().map(Part::fields);
    let lens = parts.iter().map(Part::len);
    let values = parts.iter().map(Part::value);
    let name = &input.ident;
    let (generics, arguments, wheres) = input.generics.split_for_impl();
    let table = attributes.table.as_ref().map(columns).transpose()?.unwrap_or_default();
    let optional = optional(name, &generics, &arguments, &table);
    let row = attributes.kind.map(|kind| {
        let titles = table.iter().map(|(title, is_optional)| quote! { (#title, #is_optional) });
        let len = table.len();
        quote! {
            impl #generics ::kscope::row::Row for #name #arguments #wheres {
                const TYPE: &'static str = #kind;
                const TABLE: &'static [::kscope::row::Shown] = &::kscope::row::table::<#len>(
                    <Self as ::kscope::row::Fields>::FIELDS,
                    [#(#titles),*],
                );
            }
        }
    });
    Ok(quote! {
        impl #generics ::kscope::row::Fields for #name #arguments #wheres {
            const FIELDS: &'static [::kscope::row::Field] =
                &::kscope::row::concat::<{ 0 #(+ #lens)* }>(&[#(#fields),*]);

            fn value(&self, at: usize) -> ::kscope::row::Value<'_> {
                let mut at = at;
                #(#values)*
                ::kscope::row::Value::Null
            }
        }
        #row
        #optional
    })
}

impl Part {
    fn fields(&self) -> TokenStream {
        match self {
            Self::Own(own) => {
                let fields = own.iter().map(|(field, _)| field);
                quote! { &[#(#fields),*] }
            }
            Self::Flattened { fields, .. } => fields.clone(),
        }
    }

    fn len(&self) -> TokenStream {
        match self {
            Self::Own(own) => {
                let len = own.len();
                quote! { #len }
            }
            Self::Flattened { of, .. } => quote! { <#of as ::kscope::row::Fields>::FIELDS.len() },
        }
    }

    fn value(&self) -> TokenStream {
        let len = self.len();
        let value = match self {
            Self::Own(own) => {
                let arms = own.iter().enumerate().map(|(n, (_, value))| quote! { #n => return #value, });
                quote! { match at { #(#arms)* _ => (), } }
            }
            Self::Flattened { value, .. } => quote! { return #value; },
        };
        quote! {
            if at < #len {
                #value
            }
            at = at.wrapping_sub(#len);
        }
    }
}

fn add(parts: &mut Vec<Part>, member: &syn::Field, of: &OfField) -> Result<()> {
    let name = member.ident.as_ref().ok_or_else(|| Error::new_spanned(member, "a field has a name"))?;
    if of.flatten {
        let mut without = member.ty.clone();
        // A constant knows no lifetime of the row's.
        Static.visit_type_mut(&mut without);
        let fields = relabelled(&without, of);
        let value = quote! { ::kscope::row::Fields::value(&self.#name, at) };
        parts.push(Part::Flattened { of: Box::new(without), fields, value });
    } else {
        let help = doc(&member.attrs);
        if help.is_empty() {
            return Err(Error::new_spanned(name, "the doc comment of a field is its help"));
        }
        let mut cell = member.ty.clone();
        Static.visit_type_mut(&mut cell);
        let key = name.to_string().trim_start_matches("r#").to_string();
        let title = of.column.as_ref().map_or_else(String::new, LitStr::value);
        let width = match (of.width, &of.column) {
            (Some(width), _) => quote! { #width },
            (None, Some(_)) => quote! { <#cell as ::kscope::row::Cell>::WIDTH },
            (None, None) => quote! { 0 },
        };
        let field = quote! {
            ::kscope::row::Field {
                key: #key, kind: <#cell as ::kscope::row::Cell>::KIND,
                nullable: <#cell as ::kscope::row::Cell>::NULLABLE, help: #help, title: #title, width: #width,
            }
        };
        let decimals = of.decimals.unwrap_or(DECIMALS);
        let value = match &of.value {
            Some(path) => quote! { #path(self) },
            None => quote! { ::kscope::row::Cell::cell(&self.#name, #decimals) },
        };
        own(parts).push((field, value));
    }
    for column in &of.columns {
        let (Some(title), Some(help), Some(value)) = (&column.title, &column.help, &column.value) else {
            return Err(Error::new_spanned(name, "such a column has column, help and value"));
        };
        let width = column.width;
        let field = quote! {
            ::kscope::row::Field {
                key: "", kind: ::kscope::row::Kind::Text, nullable: false, help: #help, title: #title,
                width: #width,
            }
        };
        own(parts).push((field, quote! { #value(self) }));
    }
    Ok(())
}

fn own(parts: &mut Vec<Part>) -> &mut Vec<(TokenStream, TokenStream)> {
    if !matches!(parts.last(), Some(Part::Own(_))) {
        parts.push(Part::Own(Vec::new()));
    }
    match parts.last_mut() {
        Some(Part::Own(own)) => own,
        _ => unreachable!("it was just put there"),
    }
}

/// The fields of a flattened one, with the helps and titles that they have here.
fn relabelled(of: &Type, attributes: &OfField) -> TokenStream {
    let fields = quote! { <#of as ::kscope::row::Fields>::FIELDS };
    if attributes.helps.is_empty() && attributes.titles.is_empty() {
        return fields;
    }
    let pair = |(of, new): &(LitStr, LitStr)| quote! { (#of, #new) };
    let (helps, titles) = (attributes.helps.iter().map(pair), attributes.titles.iter().map(pair));
    quote! {
        &::kscope::row::relabelled::<{ #fields.len() }>(#fields, &[#(#helps),*], &[#(#titles),*])
    }
}

/// The columns of a table, and whether each is shown only if it is asked for.
fn columns(table: &LitStr) -> Result<Vec<(String, bool)>> {
    let column = |word: &str| match word.strip_suffix('?') {
        Some(title) => (title.to_string(), true),
        None => (word.to_string(), false),
    };
    let columns: Vec<_> = table.value().split_whitespace().map(column).collect();
    if columns.is_empty() {
        return Err(Error::new_spanned(table, "a table has columns"));
    }
    Ok(columns)
}

/// A constant for each column that is not always shown: what is misspelt does not compile.
fn optional(
    name: &syn::Ident,
    generics: &syn::ImplGenerics<'_>,
    arguments: &syn::TypeGenerics<'_>,
    table: &[(String, bool)],
) -> TokenStream {
    let constants = table.iter().filter(|(_, is_optional)| *is_optional).map(|(title, _)| {
        let word: String = title
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        let constant = format_ident!("{}", word.trim_matches('_'));
        let doc = format!("The column {title}, which is shown if it is asked for.");
        quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            pub const #constant: ::kscope::row::Column = ::kscope::row::Column(#title);
        }
    });
    quote! {
        impl #generics #name #arguments {
            #(#constants)*
        }
    }
}

struct Static;

impl VisitMut for Static {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        *lifetime = Lifetime::new("'static", lifetime.span());
    }

    fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
        reference.lifetime = Some(Lifetime::new("'static", proc_macro2::Span::call_site()));
        self.visit_type_mut(&mut reference.elem);
    }
}
