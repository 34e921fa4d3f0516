// Keys for the review. Without this file every page works as plain forms and links.
'use strict';

(() => {
  const inField = (element) => element.closest('input, textarea, select, [contenteditable]') !== null;

  const dialog = () => document.getElementById('keys');

  const openDialog = () => {
    if (dialog() && !dialog().open) dialog().showModal();
  };

  // A field is gone to, anything else is pressed.
  const act = (target) => {
    const details = target.closest('details');
    if (details) details.open = true;
    if (target.matches('input, textarea')) {
      target.focus();
      target.scrollIntoView({ block: 'center' });
    } else {
      target.click();
    }
  };

  document.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    const field = inField(event.target);
    if (field && event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      const form = event.target.form;
      const button = form && form.querySelector('button[type="submit"]');
      if (button) {
        event.preventDefault();
        form.requestSubmit(button);
      }
      return;
    }
    if (field && event.key === 'Escape') {
      event.target.blur();
      document.getElementById('main').focus({ preventScroll: true });
      return;
    }
    if (field || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (dialog() && dialog().open) return;
    const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (!target) return;
    event.preventDefault();
    act(target);
  });

  document.addEventListener('click', (event) => {
    if (!event.target.closest('[data-dialog="keys"]')) return;
    event.preventDefault();
    openDialog();
  });

  // A form that is under way is not sent a second time.
  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (form.method === 'dialog') return;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = 'yes';
  });

  // A page that comes back by the browser's history can be sent again.
  window.addEventListener('pageshow', () => {
    for (const form of document.forms) delete form.dataset.sent;
  });
})();
