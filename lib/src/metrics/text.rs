// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two text forms: OpenMetrics 1.0, which prometheus-client writes, and Prometheus' classic format 0.0.4.

use std::fmt;
use std::fmt::Write as _;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use prometheus_client::registry::Unit;

use super::series::Amount;
use super::series::Key;
use super::series::Scale;

/// A family, ready to be written.
#[derive(Clone, Debug)]
pub(super) struct Rendered {
    pub name: String,
    pub help: &'static str,
    pub kind: MetricType,
    pub scale: Scale,
    pub bounds: Vec<f64>,
    pub series: Vec<(Key, Amount)>,
}

impl Rendered {
    fn unit(&self) -> Option<Unit> {
        match self.scale {
            Scale::One => None,
            Scale::Bytes => Some(Unit::Bytes),
            Scale::Seconds => Some(Unit::Seconds),
        }
    }

    /// The name with its unit.
    pub fn full_name(&self) -> String {
        match self.unit() {
            None => self.name.clone(),
            Some(unit) => format!("{}_{}", self.name, unit.as_str()),
        }
    }
}

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let unit = self.unit();
        let mut metric = encoder.encode_descriptor(&self.name, self.help, unit.as_ref(), self.kind)?;
        for (labels, amount) in &self.series {
            let seconds = amount.sum as f64 / 1e9;
            if matches!(self.kind, MetricType::Info) {
                metric.encode_info(labels)?;
                continue;
            }
            let mut series = metric.encode_family(labels)?;
            match (self.kind, self.scale) {
                (MetricType::Histogram, _) => {
                    let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
                    let buckets: Vec<_> = bounds.zip(amount.buckets.iter().copied()).collect();
                    let count = amount.buckets.iter().sum();
                    series.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
                }
                (MetricType::Gauge, Scale::Seconds) => series.encode_gauge(&seconds)?,
                (MetricType::Gauge, _) => series.encode_gauge(&amount.sum)?,
                (_, Scale::Seconds) => series.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?,
                (_, _) => series.encode_counter::<NoLabelSet, u64, f64>(&amount.sum, None)?,
            }
        }
        Ok(())
    }
}

/// OpenMetrics 1.0.
pub(super) fn open_metrics(all: Vec<Rendered>) -> String {
    let mut registry = Registry::default();
    all.into_iter().for_each(|family| registry.register_collector(Box::new(family)));
    let mut text = String::new();
    // Writing to a String can't fail, and no encoder above fails by itself.
    _ = text::encode(&mut text, &registry);
    text
}

/// The classic format, of text that is OpenMetrics: it names a counter in its metadata as in its samples, and
/// knows neither units, nor info, nor an end (prometheus.io/docs/instrumenting/exposition_formats).
pub(super) fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            // Writing to a String can't fail.
            _ = writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
