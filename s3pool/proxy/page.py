"""The page of statistics that a person can keep open; it needs nothing from elsewhere."""

from __future__ import annotations

PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>s3pool proxy</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child, td.text { text-align: left }
.closed { color: #0a6b2d } .open, .lost { color: #b00020 } .half-open, .drained { color: #9a6700 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } }
</style></head><body>
<h1>s3pool proxy</h1>
<p id="line">loading</p>
<table><thead><tr><th>endpoint</th><th>state</th><th>tier</th><th>in flight</th><th>latency</th><th>requests/s</th>
<th>requests</th><th>failures</th><th>throttled</th><th>to node</th><th>from node</th><th>last error</th></tr></thead>
<tbody id="nodes"></tbody></table>
<table><thead><tr><th>operation</th><th>requests</th></tr></thead><tbody id="ops"></tbody></table>
<script>
"use strict";
let before = {}, last = 0;
function size(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]; let i = 0;
  while (n >= 1024 && i < 4) { n /= 1024; i++ }
  return n.toFixed(i ? 1 : 0) + units[i];
}
function row(cells, words) {
  const tr = document.createElement("tr");
  cells.forEach((cell, i) => {
    const td = document.createElement("td");
    td.textContent = cell; if (words && words[i]) td.className = words[i]; tr.append(td);
  });
  return tr;
}
async function update() {
  const line = document.getElementById("line");
  try {
    const answer = await fetch("/stats?format=json", {cache: "no-store"});
    const s = await answer.json(), now = performance.now(), seconds = (now - last) / 1000;
    line.className = s.draining ? "drained" : "";
    line.textContent = (s.draining ? "draining, " : "") + "version " + s.version + ", up " + Math.round(s.uptime_s)
      + " s, auth " + s.auth + ", " + s.connections + " connections, replay memory "
      + size(s.replay_memory.used) + " of " + size(s.replay_memory.size) + ", by status "
      + JSON.stringify(s.requests.by_status);
    document.getElementById("nodes").replaceChildren(...s.endpoints.map(n => {
      const rate = n.endpoint in before && last ? ((n.requests - before[n.endpoint]) / seconds).toFixed(1) : "";
      before[n.endpoint] = n.requests;
      const state = n.drained ? "drained" : n.state;
      return row([n.endpoint, state, n.tier, n.in_flight, n.latency_ms.toFixed(1) + " ms", rate, n.requests, n.failures,
        n.throttled, size(n.bytes_sent), size(n.bytes_received), n.last_error], {1: state, 11: "text"});
    }));
    document.getElementById("ops").replaceChildren(
      ...Object.entries(s.requests.by_op).sort((a, b) => b[1] - a[1]).map(pair => row(pair)));
    last = now;
  } catch (error) { line.className = "lost"; line.textContent = "the proxy does not answer" }
}
update(); setInterval(update, 2000);
</script></body></html>
"""
