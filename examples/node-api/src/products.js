export const products = [
  { id: 'denim', name: 'Denim, red line', centsPerMetre: 3400 },
  { id: 'linen', name: 'Linen, washed', centsPerMetre: 2850 },
  { id: 'tweed', name: 'Tweed, herringbone', centsPerMetre: 5200 },
];
