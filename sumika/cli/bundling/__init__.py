"""One file that brings all of Sumika to a machine without a network: made here, laid down there."""
