# Runs the Worker on this machine, in the runtime that Cloudflare's own network runs:
#     npm ci && npx workerd serve config.capnp
# To reach another server, change ORIGIN below.

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "proxy", worker = .proxy),
    # By default a Worker reaches public addresses only.
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8081", http = (), service = "proxy")],
);

const proxy :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2026-10-01",
  bindings = [(name = "ORIGIN", text = "http://127.0.0.1:8000")],
);
