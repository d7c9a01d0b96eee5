// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands in `#[row(...)]`.

use syn::Attribute;
use syn::Expr;
use syn::Lit;
use syn::LitStr;
use syn::Meta;
use syn::Path;
use syn::Result;
use syn::meta::ParseNestedMeta;

/// Of the struct.
#[derive(Default)]
pub struct OfRow {
    /// The `type` of the JSON object.
    pub kind: Option<LitStr>,
    /// The columns, in their order; `?` behind one that is not always shown.
    pub table: Option<LitStr>,
}

/// Of a field.
#[derive(Default)]
pub struct OfField {
    pub column: Option<LitStr>,
    pub width: Option<usize>,
    pub decimals: Option<usize>,
    /// What makes the value, in place of the field.
    pub value: Option<Path>,
    pub flatten: bool,
    pub skip: bool,
    /// Other helps of flattened fields, by key or title.
    pub helps: Vec<(LitStr, LitStr)>,
    /// Other titles of flattened columns.
    pub titles: Vec<(LitStr, LitStr)>,
    /// Columns behind it that stand in tables alone.
    pub columns: Vec<TableOnly>,
}

/// A column whose facts JSON has in other fields.
#[derive(Default)]
pub struct TableOnly {
    pub title: Option<LitStr>,
    pub width: usize,
    pub help: Option<LitStr>,
    pub value: Option<Path>,
}

impl OfRow {
    pub fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut row = Self::default();
        for attribute in of_row(attributes) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("type") {
                    row.kind = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("table") {
                    row.table = Some(meta.value()?.parse()?);
                } else {
                    return Err(meta.error("a row has a type and a table"));
                }
                Ok(())
            })?;
        }
        Ok(row)
    }
}

impl OfField {
    pub fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut field = Self::default();
        for attribute in of_row(attributes) {
            attribute.parse_nested_meta(|meta| field.take(&meta))?;
        }
        Ok(field)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let name = meta.path.require_ident()?.to_string();
        match name.as_str() {
            "column" => self.column = Some(meta.value()?.parse()?),
            "width" => self.width = Some(number(meta)?),
            "decimals" => self.decimals = Some(number(meta)?),
            "value" => self.value = Some(meta.value()?.parse()?),
            "flatten" => self.flatten = true,
            "skip" => self.skip = true,
            "helps" => self.helps = pairs(meta)?,
            "titles" => self.titles = pairs(meta)?,
            "also" => {
                let mut column = TableOnly::default();
                meta.parse_nested_meta(|meta| column.take(&meta))?;
                self.columns.push(column);
            }
            _ => {
                return Err(meta.error(
                    "a field has column, width, decimals, value, also, skip, or flatten with helps and titles",
                ));
            }
        }
        Ok(())
    }
}

impl TableOnly {
    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        match meta.path.require_ident()?.to_string().as_str() {
            "column" => self.title = Some(meta.value()?.parse()?),
            "width" => self.width = number(meta)?,
            "help" => self.help = Some(meta.value()?.parse()?),
            "value" => self.value = Some(meta.value()?.parse()?),
            _ => return Err(meta.error("such a column has column, width, help and value")),
        }
        Ok(())
    }
}

fn of_row(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("row"))
}

fn number(meta: &ParseNestedMeta<'_>) -> Result<usize> {
    meta.value()?.parse::<syn::LitInt>()?.base10_parse()
}

/// As in `titles("LADDR" = "SADDR", "LPORT" = "SPORT")`.
fn pairs(meta: &ParseNestedMeta<'_>) -> Result<Vec<(LitStr, LitStr)>> {
    let content;
    syn::parenthesized!(content in meta.input);
    let mut pairs = Vec::new();
    while !content.is_empty() {
        let of = content.parse()?;
        content.parse::<syn::Token![=]>()?;
        pairs.push((of, content.parse()?));
        if !content.is_empty() {
            content.parse::<syn::Token![,]>()?;
        }
    }
    Ok(pairs)
}

/// The doc comment as one line.
pub fn doc(attributes: &[Attribute]) -> String {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(text) => match &text.lit {
                Lit::Str(text) => Some(text.value().trim().to_string()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    let lines: Vec<String> = attributes.iter().filter_map(line).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}
