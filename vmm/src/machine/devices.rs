//! The devices in memory: the I/O APIC, and the network device with its notifications and its interrupt.

use std::sync::Arc;

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::{IoEventAddress, VmFd};

use super::{MachineError, call};
use crate::device::virtio::net::{Card, Desk, Net};
use crate::device::virtio::{INTERRUPT_ACK, Notifier, Transport, WINDOW, notifications, window};
use crate::device::{Bus, IOAPIC, Ioapic, Message, SetRoutes};
use crate::memory::Ram;

/// Where the network device lies, in the hole below 4 GiB.
const NETWORK: u64 = 0xd000_0000;
/// Its pin of the I/O APIC.
const NETWORK_PIN: u32 = 5;

/// What the guest is told of the network device: as Linux takes it (Documentation/admin-guide/kernel-parameters.txt,
/// `virtio_mmio.device`).
pub(super) fn announcement() -> String {
    let kibibytes = WINDOW >> 10;
    format!(" virtio_mmio.device={kibibytes}K@{NETWORK:#x}:{NETWORK_PIN}")
}

/// The bus with all devices in memory, and the network device's side towards its thread. What KVM may hold back it does
/// only if somebody delivers it (`is_coalesced`).
pub(super) fn memory_bus(
    vm: &Arc<VmFd>,
    ram: &Ram,
    card: Option<Card>,
    is_coalesced: bool,
) -> Result<(Bus, Option<Arc<Desk>>), MachineError> {
    let mut bus = Bus::default();
    let desk = card
        .map(|card| network(vm, ram, card, &mut bus))
        .transpose()?;
    if desk.is_some() && is_coalesced {
        vm.register_coalesced_mmio(IoEventAddress::Mmio(NETWORK + INTERRUPT_ACK), 4)
            .map_err(call("hold acknowledged interrupts back"))?;
    }
    let lines = desk.iter().map(|desk| {
        let pin = usize::try_from(NETWORK_PIN).unwrap_or(0);
        (pin, Arc::clone(desk.notifier()))
    });
    let ioapic = Ioapic::new(routes(Arc::clone(vm)), lines.collect());
    bus.insert(IOAPIC, Box::new(ioapic))?;
    Ok((bus, desk))
}

fn network(vm: &VmFd, ram: &Ram, card: Card, bus: &mut Bus) -> Result<Arc<Desk>, MachineError> {
    let event = |source| MachineError::Call {
        step: "make an eventfd",
        source,
    };
    let notifier = Arc::new(Notifier::new().map_err(event)?);
    let (device, desk) = Net::new(card, ram, Arc::clone(&notifier)).map_err(event)?;
    for (queue, (address, number)) in notifications(NETWORK, Net::queue_count()).enumerate() {
        vm.register_ioevent(
            desk.notification(queue),
            &IoEventAddress::Mmio(address),
            number,
        )
        .map_err(call("signal a device's queue"))?;
    }
    vm.register_irqfd(notifier.line(), NETWORK_PIN)
        .map_err(call("take a device's interrupt"))?;
    bus.insert(window(NETWORK), Box::new(Transport::new(device, notifier)))?;
    Ok(desk)
}

/// Hands the messages of the I/O APIC's open pins to KVM.
fn routes(vm: Arc<VmFd>) -> SetRoutes {
    Box::new(move |messages| {
        let entries: Vec<_> = messages.iter().map(route).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|e| format!("{e:?}"))?;
        vm.set_gsi_routing(&table).map_err(|e| e.to_string())
    })
}

fn route(message: &Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi: message.pin,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = message.address;
    entry.u.msi.data = message.data;
    entry
}
