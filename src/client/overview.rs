//! The commands about the service as a whole: `stats` and `health`.

use serde_json::json;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    args::{Form, HealthArgs, ScopeArgs},
    connect::Service,
    exit::{Exit, Failure, Outcome},
    figures,
    output::print,
    proto_json,
};
use crate::proto::{GetStatsRequest, SERVICE_NAME};

/// The names that the service answers health checks for; the first says whether new
/// turns are taken.
const HEALTH_NAMES: [&str; 3] = ["", SERVICE_NAME, "liveness"];

/// `stats`
pub async fn stats(service: &mut Service, args: ScopeArgs) -> Outcome {
    let ScopeArgs { all_tenants, form } = args;
    let stats = service.get_stats(GetStatsRequest { all_tenants }).await?.into_inner();
    let text = if form.json {
        proto_json::line("GetStatsResponse", &stats)?
    } else {
        figures::lines(&stats)
    };
    print(&text)?;
    Ok(Exit::Fine)
}

/// `health`: fine if new turns are taken and everything else is well, too.
pub async fn health(service: &mut Service, channel: Channel, args: HealthArgs) -> Outcome {
    let HealthArgs { verbose, form } = args;
    let mut client = HealthClient::new(channel);
    let mut exit = Exit::Fine;
    for name in HEALTH_NAMES {
        let status = check(&mut client, name).await?;
        if status != ServingStatus::Serving {
            exit = Exit::TryAgain;
        }
        let status = status.as_str_name();
        print(&if form.json {
            format!("{}\n", json!({ "service": name, "status": status }))
        } else {
            let shown = if name.is_empty() { "(all)" } else { name };
            format!("{shown:<width$}  {status}\n", width = SERVICE_NAME.len())
        })?;
    }
    if verbose {
        print(&particulars(service, form).await?)?;
    }
    Ok(exit)
}

/// What the service runs, and how it encloses that.
async fn particulars(service: &mut Service, form: Form) -> Result<String, Failure> {
    let stats = service.get_stats(GetStatsRequest::default()).await?.into_inner();
    if form.json {
        return proto_json::line("GetStatsResponse", &stats);
    }
    let (version, cli, sandbox) = (stats.service_version, stats.cli_version, stats.sandbox);
    let first = [("version", version), ("CLI version", cli), ("sandbox", sandbox)];
    Ok(first
        .into_iter()
        .chain(stats.sandbox_attempts.into_iter().map(|attempt| ("", attempt)))
        .map(|(name, value)| {
            format!(
                "{name:<width$}  {value}
",
                width = SERVICE_NAME.len()
            )
        })
        .collect())
}

async fn check(client: &mut HealthClient<Channel>, name: &str) -> Result<ServingStatus, Failure> {
    match client.check(HealthCheckRequest { service: name.into() }).await {
        Ok(answer) => Ok(answer.into_inner().status()),
        Err(status) if status.code() == Code::NotFound => Ok(ServingStatus::ServiceUnknown),
        Err(status) => Err(status.into()),
    }
}
