//! The commands about the service as a whole: `stats` and `health`.

use std::iter;

use serde_json::json;
use tonic::{Code, Response, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    args::{Form, HealthArgs, ScopeArgs, StatsArgs},
    connect::Service,
    exit::{Exit, Failure, Outcome, describe},
    output::print,
    proto_json, stats,
    values::one_line,
};
use crate::proto::{GetStatsRequest, GetStatsResponse, SERVICE_NAME, StatsScope};

/// The names that the service answers health checks for; the first says whether new
/// turns are taken.
const HEALTH_NAMES: [&str; 3] = ["", SERVICE_NAME, "liveness"];

/// `stats`
pub async fn stats(service: &mut Service, args: StatsArgs) -> Outcome {
    let StatsArgs { cluster, whose: ScopeArgs { all_tenants, form } } = args;
    let scope = if cluster { StatsScope::Cluster } else { StatsScope::Node }.into();
    let stats = service.get_stats(GetStatsRequest { all_tenants, scope }).await?.into_inner();
    let text = if form.json {
        proto_json::line("GetStatsResponse", &stats)?
    } else {
        stats::lines(&stats)
    };
    print(&text)?;
    Ok(Exit::Fine)
}

/// `health`: fine if new turns are taken and everything else is well, too. Where they are
/// not, it says why.
pub async fn health(service: &mut Service, channel: Channel, args: HealthArgs) -> Outcome {
    let HealthArgs { verbose, form } = args;
    let mut client = HealthClient::new(channel);
    let mut statuses = Vec::new();
    for name in HEALTH_NAMES {
        statuses.push((name, check(&mut client, name).await?));
    }
    let well = statuses.iter().all(|(_, status)| *status == ServingStatus::Serving);
    // Health checks are open to everybody and know no reasons; the figures need credentials.
    let figures = if well && !verbose {
        None
    } else {
        Some(service.get_stats(GetStatsRequest::default()).await.map(Response::into_inner))
    };
    let told = if well { None } else { figures.as_ref() };
    print(&if form.json { status_json(&statuses, told) } else { status_lines(&statuses, told) })?;
    if verbose && let Some(figures) = figures {
        print(&particulars(figures?, form)?)?;
    }
    Ok(if well { Exit::Fine } else { Exit::TryAgain })
}

type Told<'a> = Option<&'a Result<GetStatsResponse, Status>>;

/// A line for each name, and one for each reason why the service takes no turns.
fn status_lines(statuses: &[(&str, ServingStatus)], told: Told<'_>) -> String {
    let shown = statuses.iter().map(|(name, status)| {
        let name = if name.is_empty() { "(all)" } else { name };
        (name, status.as_str_name().to_owned())
    });
    let reasons = match told {
        None => Vec::new(),
        Some(Ok(figures)) => figures.not_ready_reasons.iter().map(|it| one_line(it)).collect(),
        Some(Err(status)) => {
            vec![format!("the reason is in GetStats, which failed: {}", describe(status))]
        }
    };
    let names = iter::once("not ready").chain(iter::repeat(""));
    rows(shown.chain(names.zip(reasons)))
}

/// An object for each name.
fn status_json(statuses: &[(&str, ServingStatus)], told: Told<'_>) -> String {
    let line = |(name, status): &(&str, ServingStatus)| {
        let mut line = json!({ "service": name, "status": status.as_str_name() });
        if let (ServingStatus::NotServing, Some(Ok(figures))) = (status, told) {
            line["not_ready_reasons"] = figures.not_ready_reasons.clone().into();
        }
        format!("{line}\n")
    };
    statuses.iter().map(line).collect()
}

/// What the service runs, and how it encloses that.
fn particulars(stats: GetStatsResponse, form: Form) -> Result<String, Failure> {
    if form.json {
        return proto_json::line("GetStatsResponse", &stats);
    }
    let (version, cli, sandbox) = (stats.service_version, stats.cli_version, stats.sandbox);
    let first = [("version", version), ("CLI version", cli), ("sandbox", sandbox)];
    let attempts = stats.sandbox_attempts.into_iter().map(|attempt| ("", attempt));
    Ok(rows(first.into_iter().chain(attempts)))
}

fn rows<'a>(rows: impl Iterator<Item = (&'a str, String)>) -> String {
    let width = SERVICE_NAME.len();
    rows.map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

async fn check(client: &mut HealthClient<Channel>, name: &str) -> Result<ServingStatus, Failure> {
    match client.check(HealthCheckRequest { service: name.into() }).await {
        Ok(answer) => Ok(answer.into_inner().status()),
        Err(status) if status.code() == Code::NotFound => Ok(ServingStatus::ServiceUnknown),
        Err(status) => Err(status.into()),
    }
}
