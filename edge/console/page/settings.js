// What the edge tells its page: see console.go.

export const settings = { trace_url: '', rules: {} };

export async function load() {
  try {
    Object.assign(settings, await (await fetch('settings.json')).json());
  } catch { /* an edge that is away: the page shows it everywhere */ }
}
