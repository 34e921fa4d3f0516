
// A run that trains: the server sends what changes, as the page has it. Without this a reload shows the same.
(() => {
  const section = document.querySelector('[data-events]');
  if (!section || !window.EventSource) return;
  const state = document.getElementById('live-state');
  const source = new EventSource(section.dataset.events);

  source.addEventListener('change', (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      document.getElementById(id).innerHTML = html;
    }
    state.textContent = '';
  });

  // It is finished, was stopped, or has failed: its page says which.
  source.addEventListener('end', () => {
    source.close();
    window.location.reload();
  });

  source.addEventListener('error', () => {
    const over = source.readyState === EventSource.CLOSED;
    state.textContent = over ? 'This page is not followed any more: reload it.' : 'The server does not answer: trying again.';
  });
})();
