// The page's program: keeps a conversation, sends all of it with each question, and shows the answer as it comes.
// Texts reach the page as text nodes only, so nothing that a model writes can become part of the page.
'use strict';

const $ = id => document.getElementById(id);
const defaults = {system: '', temperature: 0.8, top_p: 0.95, top_k: 40, min_p: 0.05, repeat_penalty: 1, max_tokens: '', seed: '', theme: '', key: '', model: ''};
let settings = {...defaults};
let messages = [];                   // {role: 'user' | 'assistant', content}
let running = null;                  // the AbortController of the answer that is being written

// ------------------------------------------------------------------------------------------------ memory

// The browser keeps settings and conversation, where it is allowed to.
function remember() {
  try {
    localStorage.setItem('settings', JSON.stringify(settings));
    localStorage.setItem('messages', JSON.stringify(messages));
  } catch (error) { /* a private window: then not */ }
}

function recall() {
  try {
    settings = {...defaults, ...JSON.parse(localStorage.getItem('settings') || '{}')};
    messages = JSON.parse(localStorage.getItem('messages') || '[]');
  } catch (error) {
    settings = {...defaults};
  }
  if (!Array.isArray(messages)) messages = [];
}

// ------------------------------------------------------------------------------------------- conversation

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function action(label, run) {
  return element('button', {type: 'button', textContent: label, onclick: run});
}

// The list item of message i.
function show(message, i) {
  const mine = message.role === 'user', last = i === messages.length - 1;
  const actions = element('div', {className: 'actions'});
  if (mine) actions.append(action('Edit', () => edit(i)));
  if (!mine) actions.append(action('Copy', event => copy(event.target, message.content)));
  if (last) actions.append(action(mine ? 'Send again' : 'Regenerate', regenerate));
  return element('li', {className: message.role}, element('p', {className: 'role', textContent: mine ? 'You' : 'Model'}),
                 element('p', {className: 'words', textContent: message.content}), actions);
}

function render() {
  $('log').replaceChildren(...messages.map(show));
  $('hello').hidden = messages.length > 0;
  document.querySelector('main').scrollTop = 1e9;
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch (error) {
    button.textContent = 'Not allowed';
  }
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

// Message i becomes a text box; sending it drops what came after.
function edit(i) {
  if (running) return;
  const box = element('textarea', {className: 'edit', value: messages[i].content});
  const send = () => {
    if (!box.value.trim()) return;
    messages.length = i;
    ask(box.value.trim());
  };
  box.setAttribute('aria-label', 'Edit your message');
  box.onkeydown = event => {
    if (event.key === 'Escape') render();
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  $('log').children[i].replaceChildren(box, element('div', {className: 'actions'}, action('Send', send), action('Cancel', render)));
  box.focus();
}

function regenerate() {
  if (running || !messages.length) return;
  if (messages.at(-1).role === 'assistant') messages.pop();
  answer();
}

function ask(text) {
  messages.push({role: 'user', content: text});
  answer();
}

// ------------------------------------------------------------------------------------------------- server

function headers() {
  return settings.key ? {'Content-Type': 'application/json', 'Authorization': 'Bearer ' + settings.key} : {'Content-Type': 'application/json'};
}

function body() {
  const all = settings.system.trim() ? [{role: 'system', content: settings.system}, ...messages] : messages;
  const number = name => settings[name] === '' ? null : Number(settings[name]);
  return {messages: all, model: settings.model || null, stream: true, temperature: number('temperature'), top_p: number('top_p'),
          top_k: number('top_k'), min_p: number('min_p'), repeat_penalty: number('repeat_penalty'), max_tokens: number('max_tokens'),
          seed: number('seed')};
}

// The events of a streamed answer, as objects.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split('\n\n');
    text = parts.pop();
    for (const part of parts)
      if (part.startsWith('data: ') && part !== 'data: [DONE]') yield JSON.parse(part.slice(6));
  }
}

async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch (error) {
    return 'The server answered with status ' + response.status;
  }
}

// Asks for the next message and shows it while it is written.
async function answer() {
  const message = {role: 'assistant', content: ''}, started = performance.now();
  let pieces = 0, timings = null, first = 0;
  running = new AbortController();
  messages.push(message);
  busy(true);
  const item = $('log').lastChild, words = item.querySelector('.words'), main = document.querySelector('main');
  item.classList.add('writing');
  try {
    const question = body();
    question.messages = question.messages.slice(0, -1);
    const response = await fetch('v1/chat/completions', {method: 'POST', headers: headers(), body: JSON.stringify(question), signal: running.signal});
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const piece = event.choices[0]?.delta?.content || '';
      const follow = main.scrollHeight - main.scrollTop - main.clientHeight < 80;      // unless the reader has scrolled away
      if (piece && !pieces++) first = performance.now();
      message.content += piece;
      words.append(piece);
      timings = event.timings || timings;
      if (follow) main.scrollTop = main.scrollHeight;
      if (pieces > 1) $('speed').textContent = speed(pieces, (pieces - 1) / (performance.now() - first) * 1000);
    }
  } catch (error) {
    if (error.name !== 'AbortError') problem(error.message);
  }
  if (!message.content) messages.pop();
  running = null;
  busy(false);
  $('speed').textContent = timings ? speed(timings.predicted_n, timings.predicted_per_second) + ', prompt ' + timings.prompt_n + ' tokens (' +
      timings.cache_n + ' from the cache)' : pieces ? 'stopped after ' + ((performance.now() - started) / 1000).toFixed(1) + ' s' : '';
  remember();
}

function speed(tokens, rate) {
  return tokens + ' tokens, ' + rate.toFixed(1) + ' tokens/s';
}

function problem(text) {
  $('problem').textContent = text;
}

// While an answer is written, the conversation can only be stopped. Screen readers hear of it when it is whole.
function busy(now) {
  render();
  $('log').setAttribute('aria-busy', now);
  $('send').hidden = now;
  $('stop').hidden = !now;
  for (const button of $('log').querySelectorAll('button')) button.disabled = now;
  $('new').disabled = now;
  if (now) problem('');
  if (now) $('speed').textContent = 'reading';
  else if (!matchMedia('(pointer: coarse)').matches) $('text').focus();      // on a phone that would open the keyboard
}

async function listModels() {
  try {
    const response = await fetch('v1/models', {headers: headers()});
    if (!response.ok) throw new Error(await refusal(response));
    const names = (await response.json()).data.map(model => model.id);
    if (!names.includes(settings.model)) settings.model = '';
    $('model').replaceChildren(...names.map(name => element('option', {value: name, textContent: name})));
    $('model').value = settings.model || names[0];
    problem('');
  } catch (error) {
    problem(error.message);
  }
}

// ------------------------------------------------------------------------------------------------ controls

function grow() {
  const box = $('text');
  box.style.height = 'auto';
  box.style.height = box.scrollHeight + 2 + 'px';
}

function applyTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

function fillSettings() {
  for (const field of $('settings-form').elements) if (field.name in settings) field.value = settings[field.name];
}

$('form').onsubmit = event => {
  const text = $('text').value.trim();
  event.preventDefault();
  if (!text || running) return;
  $('text').value = '';
  grow();
  ask(text);
};
$('text').oninput = grow;
$('text').onkeydown = event => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || matchMedia('(pointer: coarse)').matches) return;
  event.preventDefault();
  $('form').requestSubmit();
};
$('stop').onclick = () => running && running.abort();
document.onkeydown = event => { if (event.key === 'Escape' && running && !$('settings').open) running.abort(); };
$('new').onclick = () => {
  messages = [];
  problem('');
  $('speed').textContent = '';
  render();
  remember();
  $('text').focus();
};
$('model').onchange = () => {
  settings.model = $('model').value;
  remember();
};
$('settings-open').onclick = () => {
  fillSettings();
  $('settings').showModal();
};
$('settings-form').oninput = event => {
  const key = settings.key;
  if (event.target.checkValidity()) settings[event.target.name] = event.target.value;
  applyTheme();
  remember();
  if (settings.key !== key) listModels();
};
$('settings-reset').onclick = () => {
  settings = {...defaults, key: settings.key, model: settings.model};
  fillSettings();
  applyTheme();
  remember();
};

recall();
applyTheme();
render();
listModels();
